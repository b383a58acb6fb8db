// What is unchecked is not shown: charts and tables by case, lines and rows by variant and vendor.
(function () {
  "use strict";
  const form = document.getElementById("filter");
  const boxes = Array.from(form.querySelectorAll("input"));
  const marked = Array.from(document.querySelectorAll("[data-case], [data-variant]"));

  function wanted(kind, value) {
    const box = boxes.find((b) => b.name === kind && b.value === value);
    return !box || box.checked;
  }

  function apply() {
    for (const element of marked) {
      const kinds = Object.keys(element.dataset);
      const shown = kinds.every((kind) => wanted(kind, element.dataset[kind]));
      element.style.display = shown ? "" : "none";
    }
    const held = document.querySelectorAll(".between");
    for (const between of held) {
      const left = Array.from(between.querySelectorAll("li"), (li) => li.style.display);
      if (left.every((display) => display === "none")) between.style.display = "none";
    }
  }

  // A link may lead to what is not shown.
  function reveal() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    for (let element = target; element; element = element.parentElement) {
      if (element.tagName === "DETAILS") element.open = true;
      for (const kind of Object.keys(element.dataset)) {
        const box = boxes.find((b) => b.name === kind && b.value === element.dataset[kind]);
        if (box) box.checked = true;
      }
    }
    apply();
    if (target) target.scrollIntoView();
  }

  form.hidden = false;
  form.addEventListener("change", apply);
  window.addEventListener("hashchange", reveal);
  window.addEventListener("pageshow", reveal);
  // Paper shows all.
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
