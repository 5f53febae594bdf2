"use strict";

// Line charts: the values under the pointer, or step by step with the arrow keys.
for (const plot of document.querySelectorAll(".plot")) {
  const series = JSON.parse(plot.dataset.chart);
  const svg = plot.querySelector("svg"), cursor = plot.querySelector(".cursor");
  const reading = plot.parentElement.querySelector(".reading");
  const steps = [...new Set(series.flatMap((s) => s.values.map((v) => v[0])))].sort((a, b) => a - b);
  const nearest = (values, key, index) =>
    values.reduce((a, b) => (Math.abs(b[index] - key) < Math.abs(a[index] - key) ? b : a));
  let at = steps.length - 1;

  const show = (step) => {
    at = steps.indexOf(step);
    const found = series.map((s) => [s, nearest(s.values, step, 0)]);
    const place = found.map(([, v]) => v).reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
    cursor.setAttribute("x1", place[2]);
    cursor.setAttribute("x2", place[2]);
    cursor.style.visibility = "visible";
    const parts = found.map(([s, v]) => (series.length > 1 ? String.fromCharCode(65 + s.run) + " " : "") + v[1]);
    reading.replaceChildren(`step ${step}: `, Object.assign(document.createElement("b"), { textContent: parts.join(" · ") }));
    plot.setAttribute("aria-valuenow", step);
    plot.setAttribute("aria-valuetext", `step ${step}: ` + found.map(([s, v]) => `${s.name} ${v[1]}`).join(", "));
  };
  plot.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    show(nearest(series.flatMap((s) => s.values), x, 2)[0]);
  });
  plot.addEventListener("keydown", (event) => {
    const jump = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -1e9, End: 1e9 }[event.key];
    if (jump === undefined) return;
    event.preventDefault();
    show(steps[Math.max(0, Math.min(steps.length - 1, at + jump))]);
  });
}

// Each chart can fill the row, and its values can be saved as a table.
for (const chart of document.querySelectorAll(".chart")) {
  const plot = chart.querySelector(".plot"), series = JSON.parse(plot.dataset.chart);
  const title = plot.getAttribute("aria-label").split(":")[0];
  const button = (text, name) => Object.assign(document.createElement("button"), { type: "button", textContent: text, ariaLabel: `${name}: ${title}` });
  const enlarge = button("Enlarge", "Enlarge"), csv = button("CSV", "Save as CSV");
  const toggle = () => {
    const large = chart.classList.toggle("large");
    enlarge.setAttribute("aria-pressed", large);
    enlarge.textContent = large ? "Shrink" : "Enlarge";
  };
  enlarge.setAttribute("aria-pressed", false);
  enlarge.addEventListener("click", toggle);
  plot.addEventListener("dblclick", toggle);
  csv.addEventListener("click", () => {
    const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
    const lines = series.flatMap((s) => s.values.map((v) => `${quoted(s.name)},${v[0]},${v[1]}`));
    const text = [`run,step,${quoted(title)}`, ...lines, ""].join("\n");
    const link = document.createElement("a");
    link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(text);
    link.download = title.replace(/[^A-Za-z0-9]+/g, "-") + ".csv";
    link.click();
  });
  const tools = Object.assign(document.createElement("span"), { className: "tools" });
  tools.append(enlarge, csv);
  chart.querySelector("figcaption").append(tools);
}

// Before and after: the range input lies over the picture, so mouse, touch and keys work by themselves.
for (const frame of document.querySelectorAll(".compare")) {
  const slider = frame.querySelector("input");
  slider.addEventListener("input", () => frame.style.setProperty("--x", slider.value + "%"));
}

// The classes under the pointer, in the truth and in every prediction of an example.
for (const example of document.querySelectorAll(".example")) {
  const names = new Map(Object.entries(JSON.parse(example.dataset.classes)).map(([name, color]) => [color, name]));
  const reading = example.querySelector(".reading");
  const layers = [...example.querySelectorAll("img[data-layer]")];
  const pixels = new Map();
  let x = 0.5, y = 0.5;

  const classAt = (image) => {
    if (!pixels.has(image)) {
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      pixels.set(image, context);
    }
    const at = (share, size) => Math.min(size - 1, Math.floor(share * size));
    const rgb = pixels.get(image).getImageData(at(x, image.naturalWidth), at(y, image.naturalHeight), 1, 1).data;
    return names.get("#" + [...rgb.slice(0, 3)].map((v) => v.toString(16).padStart(2, "0")).join("")) ?? "not labelled";
  };
  const show = () => {
    example.classList.add("probing");
    example.style.setProperty("--px", 100 * x + "%");
    example.style.setProperty("--py", 100 * y + "%");
    reading.textContent = layers.map((image) => `${image.dataset.layer}: ${classAt(image)}`).join(" · ");
  };
  for (const frame of example.querySelectorAll(".frame")) {
    frame.addEventListener("pointermove", (event) => {
      const box = frame.getBoundingClientRect();
      x = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
      y = Math.max(0, Math.min(1, (event.clientY - box.top) / box.height));
      show();
    });
  }
  example.addEventListener("pointerleave", () => example.classList.remove("probing"));
  example.querySelector(".probe").addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    x = Math.max(0, Math.min(1, x + move[0] / 50));
    y = Math.max(0, Math.min(1, y + move[1] / 25));
    show();
  });
}

// A class of the table of distances, shown in the pictures beside it.
for (const planes of document.querySelectorAll(".planes")) {
  const mark = (name) => {
    for (const group of planes.querySelectorAll("g[data-class]")) {
      group.classList.toggle("on", group.dataset.class === name);
      group.classList.toggle("off", name !== null && group.dataset.class !== name);
    }
  };
  for (const row of planes.querySelectorAll("tr[data-class]")) {
    for (const event of ["pointerenter", "focus"]) row.addEventListener(event, () => mark(row.dataset.class));
    for (const event of ["pointerleave", "blur"]) row.addEventListener(event, () => mark(null));
  }
}

// Paper shows everything.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
