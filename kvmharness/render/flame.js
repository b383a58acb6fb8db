// Zoom by a click, search by the box: no library, nothing fetched.
(function () {
  "use strict";
  const svg = document.documentElement;
  const frames = Array.from(svg.querySelectorAll("g[data-x]"), (g) => ({
    g,
    rect: g.querySelector("rect"),
    text: g.querySelector("text"),
    name: g.getAttribute("data-name"),
    x: +g.getAttribute("data-x"),
    w: +g.getAttribute("data-w"),
    depth: +g.getAttribute("data-depth"),
  }));
  const width = +svg.getAttribute("data-width");
  const letter = +svg.getAttribute("data-letter");
  const found = svg.querySelector("#found");
  const box = svg.querySelector("#search");
  const slack = 1e-9;

  function fit(name, pixels) {
    const most = Math.floor((pixels - 4) / letter);
    return most < 3 ? "" : name.length <= most ? name : name.slice(0, most - 1) + "…";
  }

  function zoom(to) {
    for (const f of frames) {
      const above = f.depth < to.depth && f.x <= to.x + slack && f.x + f.w >= to.x + to.w - slack;
      const x = above ? 0 : ((f.x - to.x) / to.w) * width;
      const w = above ? width : (f.w / to.w) * width;
      const within = above || (f.depth >= to.depth && x >= -0.01 && x + w <= width + 0.01);
      f.g.style.display = within && w >= 0.1 ? "" : "none";
      f.g.style.opacity = above ? 0.6 : "";
      f.rect.setAttribute("x", x);
      f.rect.setAttribute("width", Math.max(w - 0.5, 0.1));
      f.text.setAttribute("x", x + 3);
      f.text.textContent = fit(f.name, w);
    }
  }

  function search(words) {
    let sum = 0;
    const hits = words ? frames.filter((f) => f.name.includes(words)) : [];
    for (const f of frames) f.rect.removeAttribute("stroke");
    // What lies below a hit is part of it.
    let end = -1;
    for (const f of hits.slice().sort((a, b) => a.x - b.x || a.depth - b.depth)) {
      f.rect.setAttribute("stroke", "#7a00c8");
      if (f.x >= end - slack) {
        sum += f.w;
        end = f.x + f.w;
      }
    }
    found.textContent = words ? hits.length + " frames, " + (sum * 100).toFixed(1) + " %" : "";
  }

  const all = { x: 0, w: 1, depth: 0 };
  for (const f of frames) f.g.addEventListener("click", () => zoom(f));
  svg.querySelector("#all").addEventListener("click", () => zoom(all));
  box.addEventListener("input", () => search(box.value));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") zoom(all);
  });
})();
