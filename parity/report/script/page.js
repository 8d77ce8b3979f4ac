"use strict";

// Elements and figures: what every other part writes with. The parts are joined into one script, in html.py's order.

const find = (selector, root = document) => root.querySelector(selector);

/** An element with attributes (or properties) and children, text among them; never markup. */
function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

/** An element of a drawing. */
function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Local error over its floor; 0/0 is 0 for an operator that must be exact and was. */
function over(local, floor) {
  if (local == null || floor == null) return null;
  return floor === 0 ? (local === 0 ? 0 : Infinity) : local / floor;
}

/** A figure to three significant digits, as words.number writes it. */
function number(value) {
  if (value == null) return "–";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  const rounded = Number(value.toExponential(2));
  if (rounded === 0) return "0";
  const size = Math.abs(rounded);
  if (size >= 1e-3 && size < 1e3) return String(Number(rounded.toPrecision(3)));
  return size >= 1e3 && size < 1e5 ? rounded.toLocaleString("en-US") : value.toExponential(2).replace("e+", "e");
}

/** A share as a signed percentage, as shares.percent writes it. */
function percent(value) {
  if (value == null || !Number.isFinite(value)) return number(value);
  const size = Math.abs(100 * value), sign = size < 0.05 ? "" : value < 0 ? "−" : "+";
  const digits = { minimumFractionDigits: 1, maximumFractionDigits: 1 };
  return sign + (size < 1e6 ? size.toLocaleString("en-US", digits) : number(size)) + "%";
}

const counting = new Intl.NumberFormat("en-US"); // toLocaleString makes a new one at each call
const whole = (value) => (value == null ? "–" : counting.format(value));

/** The name with its middle left out. */
function elided(name, room) {
  if (name.length <= room) return name;
  const characters = [...name], head = Math.floor(room / 3); // an emoji is one character of two units
  return characters.length <= room ? name : `${characters.slice(0, head).join("")}…${characters.slice(head + 1 - room).join("")}`;
}

/** A color of report.css, by its name there. */
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
