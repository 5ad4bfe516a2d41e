// Draws the figures that are in sight, again when there is something new, in the reader's colours.
import { CONFIG, DARK_OF } from "/assets/palette.js";
import { el } from "/assets/dom.js";

const root = document.documentElement;
const asked = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 700px)");
const touch = window.matchMedia("(pointer: coarse)");
const places = new Map(); // place -> {url, drawn, figure, busy, inSight}

// Plotly is large: words and tables do not wait for it, and a page without figures does not load it.
let loading = null;
const library = () => (loading ??= new Promise((loaded, failed) => {
  const script = el("script", { src: "/assets/plotly.min.js" });
  script.addEventListener("load", loaded);
  script.addEventListener("error", () => {
    loading = null;
    failed(new Error("the script that draws figures did not load"));
  });
  document.head.append(script);
}));

export const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : asked.matches);

const inTheme = (value) => {
  if (typeof value === "string") return (isDark() && DARK_OF[value]) || value;
  if (Array.isArray(value)) return value.length && typeof value[0] === "number" ? value : value.map(inTheme);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, own]) => [key, inTheme(own)]));
  }
  return value;
};

const nothing = (place, text) => {
  if (place.classList.contains("js-plotly-plot")) Plotly.purge(place);
  place.replaceChildren(el("p", { class: "nothing" }, text));
};

const draw = async (place, own) => {
  const { figure } = own;
  if (!figure) {
    nothing(place, place.dataset.nothing || "Nothing to draw here yet.");
    return;
  }
  await library();
  place.querySelector(":scope > .nothing")?.remove();
  const data = inTheme(figure.data);
  const layout = inTheme(figure.layout);
  if (touch.matches) layout.dragmode = false; // a finger scrolls the page
  if (narrow.matches) {
    layout.margin = { ...layout.margin, r: 8 };
    for (const axis of Object.keys(layout)) if (axis.startsWith("xaxis")) layout[axis] = { ...layout[axis], nticks: 4, tickangle: 0 };
    layout.height = (layout.height || 300) + 12 * data.filter((trace) => trace.showlegend !== false).length;
  }
  await Plotly.react(place, data, layout, narrow.matches ? { ...CONFIG, displayModeBar: false } : CONFIG);
  place.dataset.drawn = own.drawn;
};

// Fetches and draws until the place shows what was asked last.
const renew = async (place) => {
  const own = places.get(place);
  if (!own || own.busy || !own.inSight || !place.isConnected) return;
  own.busy = true;
  try {
    while (own.drawn !== own.wanted) {
      const wanted = own.wanted;
      const answer = await fetch(own.url);
      if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
      own.figure = await answer.json();
      own.drawn = wanted;
      if (place.isConnected) await draw(place, own);
    }
  } catch (error) {
    own.drawn = own.wanted; // the next news tries again
    if (!own.figure) nothing(place, `No figure: ${error.message}`);
  } finally {
    own.busy = false;
  }
};

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const own = places.get(entry.target);
    if (!own) continue;
    own.inSight = entry.isIntersecting;
    if (own.inSight) renew(entry.target);
  }
}, { rootMargin: "200px" });

// Asks a place to show the figure of a URL, as of a version of the data.
export const show = (place, url, version) => {
  let own = places.get(place);
  if (!own) {
    own = { url, drawn: "", wanted: "", figure: null, busy: false, inSight: false };
    places.set(place, own);
    seen.observe(place);
  }
  own.url = url;
  own.wanted = `${version} ${url}`;
  renew(place);
};

// Forgets places that are no longer in the page.
export const tidy = () => {
  for (const place of places.keys()) {
    if (place.isConnected) continue;
    seen.unobserve(place);
    if (place.classList.contains("js-plotly-plot")) Plotly.purge(place);
    places.delete(place);
  }
};

export const repaint = () => {
  for (const [place, own] of places) if (own.figure && place.isConnected) draw(place, own);
};

export const figure = (key, says, nothingText = "") =>
  el("div", { class: "figure", "data-figure": key, role: "img", "aria-label": says, "data-nothing": nothingText },
    el("p", { class: "nothing waits" }, "Drawing ..."));

asked.addEventListener("change", repaint);
