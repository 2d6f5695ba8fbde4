"use strict";
for (const head of document.querySelectorAll("thead th")) {
  head.tabIndex = 0;
  head.setAttribute("role", "button");
  const sort = () => {
    const body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    const key = (row) => {
      const cell = row.cells[head.cellIndex];
      const data = cell.querySelector("data");
      return data ? Number(data.value) : head.classList.contains("n") ? -Infinity : cell.textContent;
    };
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      return typeof x === "number" ? (x < y ? -1 : x > y ? 1 : 0) : x.localeCompare(y);
    });
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...(down ? rows.reverse() : rows));
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); } });
}
