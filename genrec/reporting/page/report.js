"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const tables = new Map(page.tables.map((table) => [table.id, { ...table, ...page.items[table.items] }]));
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Neighbouring numbers get colours far apart.
  const hue = (code) => (code * 137.508) % 360;
  const colour = (code, alpha = 1) =>
    `hsl(${hue(code)} ${dark.matches ? 70 : 62}% ${dark.matches ? 66 : 44}% / ${alpha})`;

  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const plural = (count) => `${count.toLocaleString("en")} ${count === 1 ? "item" : "items"}`;

  // Places of the items sorted by their codes: every prefix is one run of them.
  const sorted = (table) => {
    const order = table.titles.map((_, place) => place);
    return order.sort((a, b) => {
      for (const column of table.codes) if (column[a] !== column[b]) return column[a] - column[b];
      return a - b;
    });
  };

  const children = (table, order, level, begin, end) => {
    const found = [];
    const column = table.codes[level];
    for (let start = begin, at = begin + 1; at <= end; at += 1) {
      if (at < end && column[order[at]] === column[order[start]]) continue;
      found.push({ code: column[order[start]], begin: start, end: at });
      start = at;
    }
    return found.sort((a, b) => b.end - b.begin - (a.end - a.begin) || a.code - b.code);
  };

  const branch = (table, order, level, begin, end) => {
    const list = element("ul");
    if (level === table.codes.length) {
      for (const place of order.slice(begin, end)) list.append(element("li", "item", table.titles[place]));
      return list;
    }
    for (const child of children(table, order, level, begin, end)) {
      const size = child.end - child.begin;
      const entry = element("li");
      if (size === 1 && level > 0) {
        const place = order[child.begin];
        entry.className = "item";
        for (const column of table.codes.slice(level)) entry.append(element("span", "code", String(column[place])));
        entry.append(` ${table.titles[place]}`);
      } else {
        const details = element("details");
        const summary = element("summary");
        if (level === 0) {
          const dot = element("span", "dot");
          dot.style.setProperty("--h", hue(child.code));
          summary.append(dot);
        }
        summary.append(element("span", "code", String(child.code)), element("span", "size", plural(size)));
        if (level === 0 && table.words[child.code]) summary.append(table.words[child.code]);
        details.append(summary);
        details.addEventListener("toggle", () => {
          if (details.open && details.children.length === 1) {
            details.append(branch(table, order, level + 1, child.begin, child.end));
          }
        });
        entry.append(details);
      }
      list.append(entry);
    }
    return list;
  };

  for (const box of document.querySelectorAll(".tree")) {
    const table = tables.get(box.dataset.table);
    box.replaceChildren(branch(table, sorted(table), 0, 0, table.titles.length));
  }

  for (const box of document.querySelectorAll(".map")) {
    const table = tables.get(box.dataset.table);
    const [canvas, select, tip, note] = ["canvas", "select", ".tip", ".note"].map((what) => box.querySelector(what));
    const first = table.codes[0];
    const margin = 10;
    let chosen = null;
    let pointed = -1;
    let scale = [1, 1];

    const sizes = new Map();
    for (const code of first) sizes.set(code, (sizes.get(code) ?? 0) + 1);
    for (const [code, size] of [...sizes].sort((a, b) => b[1] - a[1] || a[0] - b[0])) {
      const words = table.words[code] ? `: ${table.words[code]}` : "";
      const option = element("option", "", `${code}${words} (${size.toLocaleString("en")})`);
      option.value = String(code);
      select.append(option);
    }

    const at = (place) => [margin + table.x[place] * scale[0], margin + (1000 - table.y[place]) * scale[1]];
    const draw = () => {
      const ratio = window.devicePixelRatio || 1;
      const { clientWidth: width, clientHeight: height } = canvas;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      scale = [(width - 2 * margin) / 1000, (height - 2 * margin) / 1000];
      const pen = canvas.getContext("2d");
      pen.scale(ratio, ratio);
      const lit = chosen === null && pointed >= 0 ? first[pointed] : chosen;
      const radius = first.length > 4000 ? 1.7 : 2.6;
      const dots = (wanted, size, alpha) => {
        for (let place = 0; place < first.length; place += 1) {
          if (!wanted(first[place])) continue;
          const [x, y] = at(place);
          pen.fillStyle = colour(first[place], alpha);
          pen.beginPath();
          pen.arc(x, y, size, 0, 7);
          pen.fill();
        }
      };
      dots((code) => code !== lit, radius, lit === null ? 0.75 : 0.16);
      if (lit !== null) dots((code) => code === lit, radius + 1.4, 1);
      if (pointed >= 0) {
        const [x, y] = at(pointed);
        pen.strokeStyle = getComputedStyle(box).color;
        pen.lineWidth = 1.5;
        pen.beginPath();
        pen.arc(x, y, radius + 4, 0, 7);
        pen.stroke();
      }
    };
    let waiting = false;
    const redraw = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        draw();
      });
    };
    select.addEventListener("change", () => {
      chosen = select.value === "" ? null : Number(select.value);
      const words = table.words[chosen] ? `, ${table.words[chosen]}` : "";
      note.textContent = chosen === null ? "" : `Code ${chosen}: ${plural(sizes.get(chosen))}${words}.`;
      redraw();
    });
    const point = (event) => {
      const frame = canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
      let best = -1;
      let nearest = 14 * 14;
      for (let place = 0; place < first.length; place += 1) {
        const [px, py] = at(place);
        const distance = (px - x) ** 2 + (py - y) ** 2;
        if (distance < nearest) [best, nearest] = [place, distance];
      }
      if (best !== pointed) {
        pointed = best;
        redraw();
      }
      tip.hidden = best < 0;
      if (best < 0) return;
      tip.textContent = `${table.codes.map((column) => column[best]).join(" · ")}  ${table.titles[best]}`;
      const outer = box.getBoundingClientRect();
      const left = event.clientX - outer.left + 14;
      tip.style.left = `${Math.max(4, Math.min(left, outer.width - tip.offsetWidth - 8))}px`;
      tip.style.top = `${event.clientY - outer.top + 16}px`;
    };
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("pointerleave", () => {
      pointed = -1;
      tip.hidden = true;
      redraw();
    });
    dark.addEventListener("change", redraw);
    new ResizeObserver(redraw).observe(canvas);
    draw();
  }
})();
