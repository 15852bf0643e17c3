{
  const at = (id) => document.getElementById(id);
  const number = (value, digits) => value === null || value === undefined ? "–"
    : value.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
  const last = (pairs) => pairs.length ? pairs[pairs.length - 1][1] : null;
  let over = false, timer = 0;

  const showModules = (modules) => {
    for (const box of document.querySelectorAll("[data-module]")) {
      const known = modules[box.dataset.module];
      if (!known) continue;
      box.setAttribute("class", `module ${known.state}`);
      box.querySelector(".note").textContent = known.note;
    }
    for (const row of document.querySelectorAll("[data-row]")) {
      const known = modules[row.dataset.row];
      if (!known) continue;
      row.cells[1].textContent = known.state === "learning" ? `learning: ${known.note}` : known.note || known.state;
      row.cells[2].textContent = known.metrics || "–";
    }
  };

  const showEvidence = (pairs) => {
    const known = pairs.filter((pair) => pair[1] !== null);
    if (!known.length) return;
    const xs = known.map((pair) => pair[0]), ys = known.map((pair) => pair[1]);
    const low = Math.min(...ys), high = Math.max(...ys), first = xs[0], wide = Math.max(xs[xs.length - 1] - first, 1);
    const points = known.map((pair) =>
      `${(3 + 94 * (pair[0] - first) / wide).toFixed(2)},${(36 - 32 * (pair[1] - low) / (high - low || 1)).toFixed(2)}`);
    at("spark").setAttribute("points", (points.length > 1 ? points : [points[0], points[0].replace(/^[^,]*/, "97")]).join(" "));
    at("range").className = "";
    at("range").textContent = known.length === 1 ? `Round ${first}: ${number(ys[0], 1)}` : `Rounds ${first} to ${xs[xs.length - 1]}: from ${number(ys[0], 1)} to ${number(last(known), 1)}`
      + ` (least ${number(low, 1)}, greatest ${number(high, 1)})`;
  };

  const show = (state) => {
    const share = Math.round(100 * state.share);
    at("status").textContent = state.ended || "running";
    at("share").style.width = `${share}%`;
    at("share").parentElement.setAttribute("aria-valuenow", share);
    at("round").textContent = `${state.round} of ${state.rounds}`;
    at("evidence").textContent = number(last(state.evidence), 1);
    at("accuracy").textContent = number(last(state.accuracy), 4);
    at("elapsed").textContent = state.elapsed || "–";
    at("left").textContent = state.left || "–";
    showModules(state.modules);
    showEvidence(state.evidence);
    at("healthy").hidden = state.faults.length > 0;
    at("faults").replaceChildren(...state.faults.map((fault) => {
      const item = document.createElement("li");
      item.textContent = `${fault.time}  ${fault.text}`;
      return item;
    }));
    document.title = state.ended ? `${state.run}: ${state.ended.slice(0, 40)}` : `${state.run}: round ${state.round}`;
  };

  const ask = async () => {
    if (over) return;
    let wait = document.hidden ? 5000 : 1000;
    try {
      const answer = await fetch("state", {cache: "no-store"});
      if (!answer.ok) throw new Error((await answer.text()).trim());
      const state = await answer.json();
      show(state);
      if (state.ended) wait = 10000;
    } catch (error) {
      at("status").textContent = over ? "this page has ended"
        : error instanceof TypeError ? "serket watch has ended; start it again to go on" : error.message;
      wait = 5000;
    }
    timer = setTimeout(ask, wait);
  };

  at("end").addEventListener("click", async () => {
    over = true;
    clearTimeout(timer);
    try { await fetch("end", {method: "POST"}); } catch { /* it has ended already */ }
    at("status").textContent = "this page has ended; the run goes on";
    at("end").hidden = true;
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { clearTimeout(timer); ask(); } });
  ask();
}
