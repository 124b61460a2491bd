"""Running students: a Potential and an ASE calculator on the native core, without torch."""
