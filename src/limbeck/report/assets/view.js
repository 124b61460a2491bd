// A structure on a canvas: atoms as shaded discs, bonds, cell; dragging turns it.
function drawView(place, view) {
  const canvas = document.createElement("canvas");
  place.appendChild(canvas);
  const n = view.positions.length;
  let reach = 1;
  for (const p of [...view.positions, ...view.cell.flat()]) reach = Math.max(reach, Math.hypot(...p));
  let turn = rotation(-1.15, 0.35);

  function rotation(about_x, about_y) {
    const [cx, sx, cy, sy] = [Math.cos(about_x), Math.sin(about_x), Math.cos(about_y), Math.sin(about_y)];
    return [[cy, 0, sy], [sx * sy, cx, -sx * cy], [-cx * sy, sx, cx * cy]];
  }
  const times = (a, b) => a.map((row) => b[0].map((_, k) => row[0] * b[0][k] + row[1] * b[1][k] + row[2] * b[2][k]));
  const apply = (p) => turn.map((row) => row[0] * p[0] + row[1] * p[1] + row[2] * p[2]);

  function paint() {
    const width = place.clientWidth || 400, height = place.clientHeight || 340, fine = Math.max(2, window.devicePixelRatio || 1);
    canvas.width = width * fine;
    canvas.height = height * fine;
    const ink = canvas.getContext("2d");
    ink.scale(fine, fine);
    const scale = (0.47 * Math.min(width, height - 24)) / reach;
    const flat = (p) => { const q = apply(p); return [width / 2 + q[0] * scale, (height - 20) / 2 - q[1] * scale, q[2]]; };
    const at = view.positions.map(flat);
    ink.strokeStyle = "#8a8f98";
    ink.lineWidth = 1;
    for (const [a, b] of view.cell) {
      const [p, q] = [flat(a), flat(b)];
      ink.beginPath(); ink.moveTo(p[0], p[1]); ink.lineTo(q[0], q[1]); ink.stroke();
    }
    // far things first
    const things = at.map((p, k) => [p[2], k, null]);
    for (const [i, j] of view.bonds) things.push([(at[i][2] + at[j][2]) / 2 - 0.01, i, j]);
    things.sort((a, b) => a[0] - b[0]);
    const fade = (z) => 0.55 + 0.45 * (z / reach + 1) / 2;
    for (const [z, i, j] of things) {
      ink.globalAlpha = fade(z);
      if (j === null) ball(ink, at[i], view.radii[i] * scale, view.colors[i]);
      else stick(ink, at[i], at[j], 0.13 * scale, view.colors[i], view.colors[j]);
    }
    ink.globalAlpha = 1;
  }
  function ball(ink, p, radius, color) {
    const shade = ink.createRadialGradient(p[0] - radius / 3, p[1] - radius / 3, radius / 8, p[0], p[1], radius);
    shade.addColorStop(0, "#ffffff"); shade.addColorStop(0.35, color); shade.addColorStop(1, dark(color));
    ink.fillStyle = shade;
    ink.beginPath(); ink.arc(p[0], p[1], radius, 0, 7); ink.fill();
    ink.lineWidth = 0.7; ink.strokeStyle = "rgba(60,66,74,.7)"; ink.stroke();
  }
  function stick(ink, p, q, width, from, to) {
    const middle = [(p[0] + q[0]) / 2, (p[1] + q[1]) / 2];
    ink.lineWidth = Math.max(1.5, width); ink.lineCap = "round";
    for (const [end, color] of [[p, from], [q, to]]) {
      ink.strokeStyle = dark(color);
      ink.beginPath(); ink.moveTo(end[0], end[1]); ink.lineTo(middle[0], middle[1]); ink.stroke();
    }
  }
  function dark(color) {
    const part = (k) => Math.round(0.62 * parseInt(color.slice(k, k + 2), 16));
    return `rgb(${part(1)},${part(3)},${part(5)})`;
  }

  const key = document.createElement("div");
  key.className = "key";
  for (const [symbol, color] of Object.entries(view.legend || {})) {
    const item = document.createElement("span"), dot = document.createElement("i");
    dot.style.background = color;
    item.append(dot, symbol);
    key.appendChild(item);
  }
  if (view.scale) {
    const bar = document.createElement("b");
    bar.style.background = `linear-gradient(90deg, ${view.scale.colors.join(",")})`;
    key.append(`|ΔF| ${view.scale.low}`, bar, `${view.scale.high} meV/Å`);
  }
  place.appendChild(key);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `structure of ${n} atoms`);
  let from = null;
  canvas.addEventListener("pointerdown", (event) => { from = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { from = null; });
  canvas.addEventListener("pointercancel", () => { from = null; });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    turn = times(rotation((event.clientY - from[1]) / 120, (event.clientX - from[0]) / 120), turn);
    from = [event.clientX, event.clientY];
    paint();
  });
  canvas.addEventListener("dblclick", () => { turn = rotation(-1.15, 0.35); paint(); });
  new ResizeObserver(paint).observe(place);
  paint();
}
