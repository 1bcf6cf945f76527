// Only in the page that `compfast watch` serves: it is drawn anew when the run's folder changes.
// What is chosen stands in the address and stays.
"use strict";
(function () {
  const look = async () => (await fetch("/version", {cache: "no-store"})).text();
  const said = document.createElement("p");
  said.className = "status";
  said.setAttribute("role", "status");
  document.querySelector("header").append(said);

  function tell(text) {
    if (said.textContent !== text) said.textContent = text;
  }

  async function watch(first) {
    try {
      if (await look() !== first) return void location.reload();
      tell("Live: this page follows the run.");
    } catch (gone) {
      tell("The server has stopped; this is what it said last.");
    }
    setTimeout(() => watch(first), SECONDS * 1000);
  }

  look().then(watch);
})();
