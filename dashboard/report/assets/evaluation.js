"use strict";
// What the evaluation's page shows: one suite at a time, the scenario, reading and run that are chosen, and the runs that
// a point stands for. All text from data goes in as text.
(() => {
  const at = (id) => document.getElementById(id);
  const key = (...parts) => parts.join("\n");
  const [ALL, NONE] = ["", ""];
  let data = null;

  const fill = (select, options, chosen) => {
    const before = chosen ?? select.value;
    select.replaceChildren(
      ...options.map(([value, text]) => {
        const option = document.createElement("option");
        [option.value, option.textContent] = [value, text];
        return option;
      }),
    );
    if (options.some(([value]) => value === before)) select.value = before;
  };

  const place = (name) => document.querySelector(`[data-slot="${name}"]`);

  const suite = () => (at("suite") ? at("suite").value : Object.keys(data.suites)[0]);

  const draw = () => {
    const own = suite();
    poolpilot.show(place("frontier"), key("frontier", own, at("frontier-scenario").value));
    poolpilot.show(place("bill"), key("bill", own, at("bill-scenario").value));
    poolpilot.show(place("differences"), key("differences", own, at("reading").value));
  };

  const changeSuite = () => {
    const own = suite();
    document.querySelectorAll("[data-of-suite]").forEach((part) => {
      part.hidden = part.dataset.ofSuite !== own;
    });
    const scenarios = data.suites[own].map((name) => [name, name]);
    for (const id of ["frontier-scenario", "bill-scenario"]) {
      fill(at(id), [[ALL, scenarios.length === 1 ? "all of it" : `all ${scenarios.length} scenarios`], ...scenarios]);
    }
    fill(at("reading"), data.readings[own].map((name) => [name, name]));
    filter();
    draw();
  };

  const filter = () => {
    const [own, words, policy] = [suite(), at("find").value.trim().toLowerCase(), at("find-policy").value];
    let shown = 0;
    for (const row of at("scenarios").tBodies[0].rows) {
      row.hidden =
        row.dataset.suite !== own ||
        (policy !== "" && row.dataset.policy !== policy) ||
        !row.textContent.toLowerCase().includes(words);
      shown += !row.hidden;
    }
    at("found").textContent = shown ? `${shown} rows` : "No row has that; try fewer letters, or all policies.";
  };

  const cell = (text, sort, number) => {
    const made = document.createElement("td");
    made.textContent = text;
    made.dataset.sort = sort ?? "";
    if (number) made.className = "number";
    return made;
  };

  const timelineLink = (run) => `#timeline/${run.map((part) => encodeURIComponent(part)).join("/")}`;

  const hasTimeline = (run) => poolpilot.has(key("timeline", ...run.map(String)));

  // The runs of one setting: of one scenario, or of all of a suite.
  const showRuns = (own, scenario, policy, headroom) => {
    const names = data.names;
    const found = data.runs.filter(
      (run) =>
        names.suite[run[0]] === own &&
        (scenario === ALL || names.scenario[run[1]] === scenario) &&
        names.policy[run[2]] === policy &&
        run[3] === headroom,
    );
    at("runs-title").textContent = `Runs of ${policy} at head-room × ${headroom}`;
    at("runs-note").textContent = found.length
      ? `${scenario || `all scenarios of ${own}`}: ${found.length} runs.`
      : "Not listed here, since there are too many runs: rows.parquet has them.";
    at("runs-table").tBodies[0].replaceChildren(
      ...found.map((run) => {
        const [, s, , , seed, usd, above, met, lost, scalings, changes] = run;
        const row = document.createElement("tr");
        const percent = above === null ? "–" : (above * 100).toFixed(0);
        row.append(
          cell(names.scenario[s], names.scenario[s]),
          cell(seed, seed, true),
          cell(usd.toFixed(2), usd, true),
          cell(percent, above, true),
          cell(met, met),
          cell(lost, lost, true),
          cell(scalings, scalings, true),
          cell(changes, changes, true),
        );
        row.cells[4].className = "words";
        const there = [own, names.scenario[s], seed, policy];
        const recorded = headroom === 1 && hasTimeline(there);
        const last = cell(recorded ? "" : "not recorded", recorded ? 0 : 1);
        if (recorded) {
          const link = document.createElement("a");
          [link.href, link.textContent] = [timelineLink(there), "timeline"];
          last.append(link);
        }
        row.append(last);
        return row;
      }),
    );
    const missing = found.find((run) => !hasTimeline([own, names.scenario[run[1]], run[4], policy]));
    at("runs-command").hidden = !missing || headroom !== 1;
    if (missing) {
      at("runs-command").querySelector("code").textContent = `--timeline ${names.scenario[missing[1]]}:${missing[4]}`;
    }
    at("runs").hidden = false;
    at("runs-title").focus({ preventScroll: true });
    at("runs").scrollIntoView();
  };

  const runsOf = () => {
    const found = new Map();
    for (const [own, scenario, seed] of data.timelines) {
      found.set(key(own, scenario, seed), `${scenario}, seed ${seed} (${own})`);
    }
    return [...found];
  };

  const drawTimeline = () => {
    const run = at("timeline-run").value;
    const policies = data.timelines.filter(([own, s, seed]) => key(own, s, seed) === run).map((own) => own[3]);
    fill(at("timeline-policy"), policies.map((name) => [name, name]));
    fill(at("timeline-other"), [[NONE, "nothing"], ...policies.map((name) => [name, name])]);
    const [policy, other] = [at("timeline-policy").value, at("timeline-other").value];
    at("timeline-name").textContent = policy;
    poolpilot.show(place("timeline"), key("timeline", run, policy));
    at("timeline-second").hidden = other === NONE;
    at("timeline-other-name").textContent = other;
    if (other !== NONE) poolpilot.show(place("other"), key("timeline", run, other));
  };

  // Where the address leads: to a suite, to a setting's runs, or to a run's timeline.
  const follow = () => {
    const [where, ...parts] = location.hash.slice(1).split("/").map(decodeURIComponent);
    if (where === "suite" && parts.length === 1) {
      choose(parts[0]);
    } else if (where === "runs" && parts.length === 4) {
      choose(parts[0]);
      showRuns(parts[0], parts[1], parts[2], Number(parts[3]));
    } else if (where === "timeline" && parts.length === 4 && hasTimeline(parts)) {
      choose(parts[0]);
      at("timeline-run").value = key(...parts.slice(0, 3));
      drawTimeline();
      at("timeline-policy").value = parts[3];
      drawTimeline();
      at("timelines").scrollIntoView();
    }
  };

  const choose = (own) => {
    if (at("suite") && own in data.suites && suite() !== own) {
      at("suite").value = own;
      changeSuite();
    }
  };

  poolpilot.ready.then((given) => {
    data = given;
    if (at("suite")) at("suite").addEventListener("change", changeSuite);
    for (const id of ["frontier-scenario", "bill-scenario", "reading"]) at(id).addEventListener("change", draw);
    fill(at("find-policy"), [["", "all"], ...data.names.policy.map((name) => [name, name])]);
    at("find").addEventListener("input", filter);
    at("find-policy").addEventListener("change", filter);
    place("frontier").addEventListener("drawn", () => {
      const figure = place("frontier");
      figure.removeAllListeners("plotly_click");
      figure.on("plotly_click", (event) => {
        const link = event.points[0].customdata[2];
        if (link) location.hash = link;
      });
    });
    if (at("timeline-run")) {
      fill(at("timeline-run"), runsOf());
      for (const id of ["timeline-run", "timeline-policy", "timeline-other"]) at(id).addEventListener("change", drawTimeline);
      drawTimeline();
    }
    changeSuite();
    window.addEventListener("hashchange", follow);
    follow();
  }, () => {});
})();
