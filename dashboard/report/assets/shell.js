"use strict";
// Unpacks the page's figures and the library that draws them, draws each when its place comes near, and follows the
// reader's setting of light or dark. Other scripts of the page wait for `poolpilot.ready`.
window.poolpilot = (() => {
  const root = document.documentElement;
  const asked = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 700px)");
  const touch = window.matchMedia("(pointer: coarse)");
  let payload = null;
  let chosen = null;

  const unpacked = async (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(await new Response(stream).arrayBuffer());
  };

  const isDark = () => (chosen === null ? asked.matches : chosen === "dark");

  const inTheme = (value) => {
    if (typeof value === "string") return (isDark() && payload.dark[value]) || value;
    if (Array.isArray(value)) {
      return value.length && typeof value[0] === "number" ? value : value.map(inTheme);
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, own]) => [key, inTheme(own)]));
    }
    return value;
  };

  // Draws the figure that a place names, again if it was drawn before.
  const draw = async (place) => {
    const key = place.dataset.figure;
    const figure = (narrow.matches && payload.narrow[key]) || payload.figures[key];
    if (!figure && key === place.dataset.slot) return; // a script has yet to choose
    if (!figure) {
      if (place.dataset.drawn) Plotly.purge(place);
      delete place.dataset.drawn;
      place.textContent = place.dataset.empty;
      return;
    }
    if (!place.dataset.drawn) place.textContent = "";
    const { data, layout } = inTheme(figure);
    if (touch.matches) layout.dragmode = false; // a finger scrolls the page
    if (narrow.matches) {
      const beside = data.filter((trace) => trace.showlegend !== false).length;
      layout.margin.r = 8;
      layout.height = (layout.height || 420) + 12 * beside; // the legend takes more lines
    }
    place.dataset.drawn = key;
    const config = narrow.matches ? { ...payload.config, displayModeBar: false } : payload.config;
    await Plotly.react(place, data, layout, config);
    place.dispatchEvent(new CustomEvent("drawn", { bubbles: true }));
  };

  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting && entry.target.dataset.drawn !== entry.target.dataset.figure) draw(entry.target);
      }
    },
    { rootMargin: "600px" },
  );

  // A place may change its width while the window does not.
  const sized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const drawn = target.querySelector(".main-svg");
      if (drawn && target.clientWidth && Math.abs(drawn.clientWidth - target.clientWidth) > 1) Plotly.Plots.resize(target);
    }
  });

  // Puts another figure in a place.
  const show = (place, key) => {
    if (place.dataset.figure === key && place.dataset.drawn === key) return;
    place.dataset.figure = key;
    seen.unobserve(place);
    seen.observe(place);
  };

  const paint = () => {
    root.dataset.theme = isDark() ? "dark" : "light";
    const button = document.getElementById("theme");
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Change to ${isDark() ? "light" : "dark"} colours`);
    if (payload) document.querySelectorAll("[data-drawn]").forEach(draw);
  };

  const start = async () => {
    paint();
    asked.addEventListener("change", paint);
    const button = document.getElementById("theme");
    button.hidden = false;
    button.addEventListener("click", () => {
      chosen = isDark() ? "light" : "dark";
      paint();
    });
    if (typeof DecompressionStream === "undefined") {
      throw new Error("figures need a browser of 2023 or newer; the words and tables of this page do not");
    }
    payload = JSON.parse(await unpacked("payload"));
    const library = document.createElement("script");
    library.textContent = await unpacked("library");
    document.head.append(library);
    document.querySelectorAll("[data-figure]").forEach((place) => {
      seen.observe(place);
      sized.observe(place);
    });
    root.dataset.ready = "yes";
    return payload.data;
  };

  const ready = start();
  ready.catch((error) => {
    const trouble = document.getElementById("trouble");
    trouble.textContent = `No figures: ${error.message}.`;
    trouble.hidden = false;
  });
  // Whether there is a figure of that key.
  return { ready, show, has: (key) => Boolean(payload && payload.figures[key]) };
})();
