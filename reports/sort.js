// Sorts the rows of a table by a column. Without it the page says all that it says with it: the buttons are made here.
"use strict";
const order = "✗?◐┤✓–";
const key = cell => {
  const words = cell.textContent.trim(), place = order.indexOf(words[0]);
  const plain = words.replaceAll("−", "-").replace(/[\u202f\u00a0]/g, "");
  const number = parseFloat(plain.replace(/^[^0-9-]*?(?=-?[0-9])/, ""));
  return place >= 0 && words ? [0, place, words] : /^[^a-z]*[0-9]/i.test(plain) ? [1, number, words] : [2, 0, words];
};
const compare = (a, b) => a[0] - b[0] || a[1] - b[1] || a[2].localeCompare(b[2], "en", { numeric: true });
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.textContent = "⇅";
    button.setAttribute("aria-label", `Sort by ${head.textContent}`);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const rows = [...body.rows].map(row => [key(row.cells[column]), row]);
      rows.sort((a, b) => (falling ? -1 : 1) * compare(a[0], b[0]));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
