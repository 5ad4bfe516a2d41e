// Makes elements out of data. Every text goes in as text: nothing that comes from data is ever HTML.

export const el = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false || value === "") continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) made.addEventListener(event, handler);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
};

export const cards = (given) =>
  el("ul", { class: "cards" }, given.map((card) =>
    el("li", {},
      el("div", { class: "what" }, card.name),
      el("div", { class: "value", "data-tone": card.tone }, card.value, card.unit ? el("span", { class: "unit" }, card.unit) : ""),
      el("div", { class: "more" }, card.more))));

const isWords = (column, text) => !column.number && text.length > 24;

export const table = (given, { label = "", tall = false, current = "", words = true } = {}) => {
  if (!given.rows.length) return el("p", { class: "note" }, given.empty || "Nothing here yet.");
  const head = el("tr", {}, given.columns.map((column) =>
    el("th", { scope: "col", class: column.number ? "number" : "" }, column.name,
      column.unit ? el("span", { class: "unit" }, column.unit) : "")));
  const body = given.rows.map((row) => {
    const link = row[0].link;
    return el("tr", { "aria-current": link && link === current ? "true" : null, "data-link": link }, row.map((cell, i) => {
      const column = given.columns[i];
      const parts = cell.parts?.flatMap((part) => [el("span", { class: "part" }, part), " "]) ?? cell.text;
      const text = cell.tone ? el("span", { "data-tone": cell.tone }, parts) : parts;
      const shown = cell.link ? el("a", { href: `#${cell.link}` }, text) : text;
      return el(i ? "td" : "th",
        { scope: i ? null : "row", class: [column.number ? "number" : "", words && i && isWords(column, cell.text) ? "words" : ""].join(" ").trim() },
        shown, cell.more ? el("span", { class: "small" }, cell.more) : "");
    }));
  });
  // A region that scrolls has to be reachable by keyboard.
  const region = el("div", { class: tall ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": label },
    el("table", { "aria-label": label, "aria-description": given.caption }, el("thead", {}, head), el("tbody", {}, body)));
  return given.caption ? el("div", { class: "table" }, region, el("p", { class: "caption", "aria-hidden": "true" }, given.caption)) : region;
};

export const options = (select, names, chosen, none = null) => {
  const wanted = [...(none === null ? [] : [["", none]]), ...names.map((name) => [name, name])];
  const told = JSON.stringify(wanted);
  if (select.dataset.told !== told) {
    select.dataset.told = told;
    select.replaceChildren(...wanted.map(([value, text]) => el("option", { value }, text)));
    if (none !== null) select.firstChild.setAttribute("value", "");
  }
  select.value = chosen;
};

// Puts something in a place unless it is there already: what is selected, focused or scrolled stays.
export const put = (place, key, make) => {
  if (place.dataset.shown === key) return;
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const again = focused && (focused.closest("tr")?.dataset.link || focused.getAttribute("aria-label"));
  const scrolled = [...place.querySelectorAll(".scroll")].map((region) => [region.scrollTop, region.scrollLeft]);
  place.dataset.shown = key;
  place.replaceChildren(...[make()].flat().filter((child) => child));
  place.querySelectorAll(".scroll").forEach((region, i) => {
    if (scrolled[i]) [region.scrollTop, region.scrollLeft] = scrolled[i];
  });
  if (again) {
    const back = [...place.querySelectorAll("tr[data-link]")].find((row) => row.dataset.link === again)?.querySelector("a")
      || [...place.querySelectorAll("[aria-label]")].find((own) => own.getAttribute("aria-label") === again);
    back?.focus({ preventScroll: true });
  }
};
