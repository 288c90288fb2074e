"use strict";
// The map of the embedding and the rotatable surfaces of a discovery page. Nothing is loaded; the data stand in the page.
(() => {
  const SIZE = 48; // voxels along each side of a surface's density, as discovery_page.SURFACE_VOXELS
  const SVG = "http://www.w3.org/2000/svg";
  const data = JSON.parse(document.getElementById("data").textContent);

  // ------------------------------------------------------------------------------------------------------------ map

  function drawMap() {
    const svg = document.getElementById("map");
    const points = data.map;
    const [width, height, margin] = [900, 560, 16];
    const places = points.x.map((x, i) => [margin + x * (width - 2 * margin), height - margin - points.y[i] * (height - 2 * margin)]);
    const radius = Math.max(2, Math.min(5.5, 90 / Math.sqrt(places.length)));
    const order = places.map((_, i) => i).sort((a, b) => (points.group[a] > 0) - (points.group[b] > 0)); // groups on top
    const dots = [];
    for (const i of order) {
      const dot = document.createElementNS(SVG, "circle");
      dot.setAttribute("cx", places[i][0].toFixed(1));
      dot.setAttribute("cy", places[i][1].toFixed(1));
      dot.setAttribute("r", radius.toFixed(1));
      if (points.group[i] > 0) dot.setAttribute("fill", points.colours[points.group[i] - 1]);
      dots[i] = dot;
      svg.append(dot);
    }
    let current = -1;
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) * width / box.width, y = (event.clientY - box.top) * height / box.height;
      let best = -1, least = 15 ** 2;
      places.forEach(([a, b], i) => {
        const distance = (a - x) ** 2 + (b - y) ** 2;
        if (distance < least && !dots[i].classList.contains("hidden")) [best, least] = [i, distance];
      });
      if (best < 0 || best === current) return;
      if (current >= 0) dots[current].classList.remove("current");
      current = best;
      dots[best].classList.add("current");
      showParticle(best);
    });
    for (const button of document.querySelectorAll("[data-toggle]")) {
      button.addEventListener("click", () => {
        const group = Number(button.dataset.toggle);
        const hidden = button.classList.toggle("off");
        points.group.forEach((value, i) => { if (value === group) dots[i].classList.toggle("hidden", hidden); });
        button.setAttribute("aria-pressed", String(!hidden));
      });
    }
  }

  function showParticle(i) {
    const points = data.map;
    document.getElementById("particle-name").textContent = points.name[i];
    const facts = [points.group[i] > 0 ? "group " + points.group[i] : "no group"];
    if (points.called) facts.push("called " + points.called[i] + (points.probability ? " (" + points.probability[i].toFixed(2) + ")" : ""));
    if (points.novelty) facts.push("novelty " + points.novelty[i].toFixed(2));
    document.getElementById("particle-facts").textContent = facts.join(" · ");
    const picture = points.picture[i];
    document.getElementById("particle-panels").hidden = !picture;
    document.getElementById("particle-none").hidden = Boolean(picture);
    if (!picture) return;
    const image = new Image();
    image.onload = () => {
      const side = image.naturalHeight;
      [["panel-input", 0, false], ["panel-mask", 0, true], ["panel-recovered", side, false]].forEach(([id, from, outlined]) => {
        const svg = document.getElementById(id);
        svg.setAttribute("viewBox", `${from} 0 ${side} ${side}`);
        svg.replaceChildren();
        const grey = document.createElementNS(SVG, "image");
        grey.setAttribute("href", picture.image);
        grey.setAttribute("width", 2 * side);
        grey.setAttribute("height", side);
        svg.append(grey);
        if (!outlined) return;
        const path = document.createElementNS(SVG, "path");
        path.setAttribute("class", "predicted");
        path.setAttribute("d", picture.outline);
        svg.append(path);
      });
    };
    image.src = picture.image;
  }

  // ------------------------------------------------------------------------------------------------------- surfaces

  function decode(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  }

  // Value at a point, trilinear; 0 outside.
  function sample(volume, x, y, z) {
    const i = Math.floor(x), j = Math.floor(y), k = Math.floor(z);
    if (i < 0 || j < 0 || k < 0 || i >= SIZE - 1 || j >= SIZE - 1 || k >= SIZE - 1) return 0;
    const a = x - i, b = y - j, c = z - k, at = (k * SIZE + j) * SIZE + i;
    const low = (volume[at] * (1 - a) + volume[at + 1] * a) * (1 - b) + (volume[at + SIZE] * (1 - a) + volume[at + SIZE + 1] * a) * b;
    const up = at + SIZE * SIZE;
    const high = (volume[up] * (1 - a) + volume[up + 1] * a) * (1 - b) + (volume[up + SIZE] * (1 - a) + volume[up + SIZE + 1] * a) * b;
    return low * (1 - c) + high * c;
  }

  function multiply(a, b) {
    return [0, 1, 2].map((i) => [0, 1, 2].map((j) => a[i][0] * b[0][j] + a[i][1] * b[1][j] + a[i][2] * b[2][j]));
  }

  function turn(angleX, angleY) {
    const [cx, sx, cy, sy] = [Math.cos(angleX), Math.sin(angleX), Math.cos(angleY), Math.sin(angleY)];
    return multiply([[1, 0, 0], [0, cx, -sx], [0, sx, cx]], [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]);
  }

  class Surface {
    constructor(canvas, volumes) {
      this.canvas = canvas;
      this.volumes = volumes.map(decode);
      this.volume = this.volumes[0];
      this.level = 0.4;
      this.pose = turn(0.4, -0.5);
      this.colour = canvas.dataset.colour.match(/\w\w/g).map((pair) => parseInt(pair, 16));
      this.drag();
      this.draw(220);
    }

    // x to the right, y up, z to the viewer: a right-handed view, so that the hand of the density is seen as it is.
    draw(pixels) {
      const { canvas, volume, pose } = this;
      canvas.width = canvas.height = pixels;
      const context = canvas.getContext("2d");
      const image = context.createImageData(pixels, pixels);
      const middle = Math.floor(SIZE / 2), reach = SIZE * 0.5, level = this.level * 255, step = 0.75;
      const [[a, b, c], [d, e, f], [g, h, k]] = pose; // rows; its transpose takes the view back to the density
      let lit = 0;
      for (let row = 0; row < pixels; row++) {
        for (let column = 0; column < pixels; column++) {
          const u = (2 * (column + 0.5) / pixels - 1) * reach, v = (1 - 2 * (row + 0.5) / pixels) * reach;
          const depth = reach * reach - u * u - v * v;
          if (depth <= 0) continue;
          const half = Math.sqrt(depth);
          const [x0, y0, z0] = [a * u + d * v + middle, b * u + e * v + middle, c * u + f * v + middle];
          let before = 0;
          for (let w = half; w >= -half; w -= step) {
            const value = sample(volume, x0 + g * w, y0 + h * w, z0 + k * w);
            if (value >= level) {
              const back = w + step * (value - level) / Math.max(value - before, 1e-6);
              this.shade(image.data, 4 * (row * pixels + column), x0 + g * back, y0 + h * back, z0 + k * back);
              lit++;
              break;
            }
            before = value;
          }
        }
      }
      context.putImageData(image, 0, 0);
      canvas.dataset.lit = lit;
    }

    // Brightness by the angle between the surface and a light beside the viewer.
    shade(bytes, at, x, y, z) {
      const { volume, pose, colour } = this;
      const n = [
        sample(volume, x - 1, y, z) - sample(volume, x + 1, y, z),
        sample(volume, x, y - 1, z) - sample(volume, x, y + 1, z),
        sample(volume, x, y, z - 1) - sample(volume, x, y, z + 1),
      ];
      const length = Math.hypot(...n) || 1;
      const [p, q, r] = pose.map((line) => (line[0] * n[0] + line[1] * n[1] + line[2] * n[2]) / length);
      const light = 0.3 + 0.7 * Math.max(0, 0.3 * p + 0.45 * q + 0.84 * r), shine = 70 * Math.max(0, 0.15 * p + 0.24 * q + 0.96 * r) ** 24;
      for (let i = 0; i < 3; i++) bytes[at + i] = Math.min(255, colour[i] * light + shine);
      bytes[at + 3] = 255;
    }

    drag() {
      let last = null;
      this.canvas.addEventListener("pointerdown", (event) => {
        last = [event.clientX, event.clientY];
        this.canvas.setPointerCapture(event.pointerId);
      });
      this.canvas.addEventListener("pointermove", (event) => {
        if (!last) return;
        this.rotate((event.clientY - last[1]) / 90, (event.clientX - last[0]) / 90);
        last = [event.clientX, event.clientY];
      });
      for (const name of ["pointerup", "pointercancel"]) {
        this.canvas.addEventListener(name, () => { last = null; this.draw(220); });
      }
      this.canvas.addEventListener("keydown", (event) => {
        const [x, y] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] || [0, 0];
        if (!x && !y) return;
        event.preventDefault();
        this.rotate(x * 0.2, y * 0.2);
      });
    }

    rotate(angleX, angleY) {
      this.pose = multiply(turn(angleX, angleY), this.pose);
      this.draw(130);
    }
  }

  drawMap();
  for (const canvas of document.querySelectorAll("canvas.surface")) {
    const surface = new Surface(canvas, data.surfaces[Number(canvas.dataset.surface)]);
    const controls = canvas.parentElement;
    controls.querySelector("input").addEventListener("input", (event) => { surface.level = Number(event.target.value); surface.draw(220); });
    controls.querySelector("select").addEventListener("change", (event) => {
      surface.volume = surface.volumes[Number(event.target.value)];
      surface.draw(220);
    });
  }
  document.documentElement.dataset.ready = "yes";
})();
