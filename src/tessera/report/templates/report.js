"use strict";
// What the page does: it draws its charts, shows its pictures, and lets a user be chosen. Everything is in the page.
const drawn = JSON.parse(document.getElementById("drawn").textContent);

for (const image of document.querySelectorAll("img[data-picture]")) {
  image.src = drawn.pictures[image.dataset.picture];
}

const chooser = document.getElementById("user");
const examples = [...document.querySelectorAll(".example")];
function choose() {
  for (const example of examples) example.hidden = example.id !== chooser.value;
}
if (chooser) {
  chooser.addEventListener("change", choose);
  for (const button of document.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => {
      const count = chooser.options.length;
      chooser.selectedIndex = (chooser.selectedIndex + Number(button.dataset.step) + count) % count;
      choose();
    });
  }
  choose();
}

// `ast` has Vega interpret its expressions: the page's policy forbids code that is made of text.
const options = { ast: true, actions: false, renderer: "svg", config: drawn.config, tooltip: { theme: "page" } };
const charts = [...document.querySelectorAll("[data-chart]")];
const described = (place) => ({ ...drawn.charts[place.dataset.chart], description: place.getAttribute("aria-label") });
Promise.all(charts.map((place) => vegaEmbed(place, described(place), options))).then(() => {
  document.documentElement.dataset.drawn = charts.length;
});
