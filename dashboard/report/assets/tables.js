"use strict";
// Tables that are sorted by a click on a heading. Numbers by themselves, what is not known always last.
(() => {
  const value = (row, place) => row.cells[place].dataset.sort ?? row.cells[place].textContent;

  const compare = (one, other, numeric) => {
    if (one === "" || other === "") return (one === "") - (other === "");
    return numeric ? Number(one) - Number(other) : one.localeCompare(other, "en", { numeric: true });
  };

  const sort = (table, place, heading) => {
    const rising = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const numeric = heading.classList.contains("number");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [one, other] = [value(a, place), value(b, place)];
      const order = compare(one, other, numeric);
      return one === "" || other === "" || rising ? order : -order;
    });
    table.tBodies[0].append(...rows);
  };

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    [...table.tHead.rows[0].cells].forEach((heading, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = heading.textContent;
      heading.textContent = "";
      heading.append(button);
      button.addEventListener("click", () => sort(table, place, heading));
    });
  }
})();
