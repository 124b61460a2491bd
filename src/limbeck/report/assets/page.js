// Draws every figure; document.documentElement.dataset says how many, and how long it took.
(async function () {
  const found = JSON.parse(document.getElementById("figures").textContent);
  const settings = {
    responsive: true, displaylogo: false, displayModeBar: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  // On paper a figure shrinks as a whole: its drawing needs a view box, its place a shape.
  function keepShape(place) {
    const { width, height } = place._fullLayout;
    place.style.setProperty("--shape", `${width} / ${height}`);
    for (const drawing of place.querySelectorAll(".main-svg")) drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  }
  for (const [name, view] of Object.entries(found.views)) drawView(document.getElementById(name), view);
  const drawn = Object.entries(found.plots).map(async ([name, plot]) => {
    const place = document.getElementById(name);
    const options = { ...settings, toImageButtonOptions: { format: "svg", filename: name } };
    await Plotly.newPlot(place, plot.data, plot.layout, options);
    keepShape(place);
    // buttons of a figure that nobody points at would take a fifth of the time
    place.addEventListener("pointerenter", () => {
      Plotly.react(place, plot.data, place.layout, { ...options, displayModeBar: true });
    }, { once: true });
    place.on("plotly_afterplot", () => keepShape(place));
  });
  await Promise.all(drawn);
  document.documentElement.dataset.plots = drawn.length;
  document.documentElement.dataset.drawnMs = Math.round(performance.now());
})();
