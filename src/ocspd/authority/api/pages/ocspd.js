"use strict";

// The page of an ocspd server: forms over its API. Everything the server says is put in as text, never as HTML.

const API = "/api/v1/cfssl/";
const DAY = 24 * 60 * 60 * 1000;
const SOON = 30;
const YEAR = 365;

/** The bearer token for servers that demand one. It is kept in this page only. */
let token = "";

/** Make an element: make("p", {class: "x"}, "text", child). Attributes that are null are left out. */
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "onclick") element.addEventListener("click", value);
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Call an endpoint; returns its result and messages, throws an Error with what the server says. */
async function call(endpoint, fields) {
  const get = endpoint.startsWith("scan");
  const query = get ? `?${new URLSearchParams(fields)}` : "";
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(API + endpoint + query, get
      ? { headers }
      : { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(fields) });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (response.status === 404) throw new Error("This server does not offer that.");
  let reply;
  try {
    reply = await response.json();
  } catch {
    throw new Error(`The server replied with status ${response.status}.`);
  }
  if (!reply.success) {
    const problem = (reply.errors || [])[0] || { message: `status ${response.status}`, code: 0 };
    const error = new Error(problem.message);
    error.code = problem.code;
    error.needsToken = response.status === 401;
    throw error;
  }
  return reply;
}

function notice(kind, ...children) {
  return make("div", { class: `notice ${kind}` }, ...children);
}

function failure(error, again) {
  const code = error.code ? make("span", { class: "code" }, ` ${error.code}`) : null;
  return notice("bad", error.message, code, error.needsToken ? tokenForm(again) : null);
}

/** Ask for the token that a server demands, and repeat the call with it. */
function tokenForm(again) {
  const input = make("input", { type: "password", "aria-label": "Token", placeholder: "Token", autocomplete: "off" });
  const form = make("form", null, input, make("button", { type: "submit" }, "Use token"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    token = input.value.trim();
    again();
  });
  return form;
}

/** Say how much of a certificate's life is left, as a pill. */
function validity(notBefore, notAfter) {
  const days = Math.floor((new Date(notAfter) - Date.now()) / DAY);
  if (new Date(notBefore) > Date.now()) return make("span", { class: "pill warn" }, "not valid yet");
  if (days < 0) return make("span", { class: "pill bad" }, "expired");
  const years = Math.floor(days / YEAR);
  const left = years > 1 ? `${years} years` : `${days} ${days === 1 ? "day" : "days"}`;
  const text = days === 0 ? "expires today" : `valid for ${left}`;
  return make("span", { class: `pill ${days < SOON ? "warn" : "good"}` }, text);
}

const NAME_PARTS = [
  ["common_name", "CN"], ["organization", "O"], ["organizational_unit", "OU"], ["locality", "L"],
  ["province", "ST"], ["country", "C"], ["serial_number", "SERIALNUMBER"],
];

function nameText(name) {
  const parts = NAME_PARTS.filter(([key]) => name[key]).map(([key, short]) => `${short} = ${name[key]}`);
  return parts.join(", ") || (name.names || []).join(", ") || "(empty)";
}

function title(name) {
  return name.common_name || name.organization || (name.names || [])[0] || "(no name)";
}

function moment(text) {
  return text.replace("T", " ").replace("Z", " UTC");
}

function terms(rows) {
  const list = make("dl");
  for (const [term, value, kind] of rows) {
    if (value === null || value === undefined || value === "") continue;
    list.append(make("dt", null, term), make("dd", { class: kind || null }, value));
  }
  return list;
}

function nameList(names) {
  return names && names.length ? make("ul", { class: "names" }, ...names.map((name) => make("li", null, name))) : null;
}

function copyButton(label, text) {
  if (!navigator.clipboard) return null;
  return make("button", {
    class: "quiet",
    type: "button",
    async onclick(event) {
      await navigator.clipboard.writeText(text);
      event.target.textContent = "Copied";
      setTimeout(() => { event.target.textContent = label; }, 1500);
    },
  }, label);
}

function saveButton(label, text, fileName) {
  return make("button", {
    class: "quiet",
    type: "button",
    onclick() {
      const url = URL.createObjectURL(new Blob([text], { type: "application/x-pem-file" }));
      make("a", { href: url, download: fileName }).click();
      URL.revokeObjectURL(url);
    },
  }, label);
}

function fileName(text) {
  return text.toLowerCase().replace(/[^a-z0-9.-]+/g, "-").replace(/^[-.]+|-+$/g, "") || "certificate";
}

/** Show a certificate as certinfo describes it. */
function certificateCard(info, role) {
  return make(
    "article",
    { class: "certificate" },
    make(
      "div",
      { class: "head" },
      make("h3", null, title(info.subject), role ? make("span", { class: "role" }, `  ${role}`) : null),
      validity(info.not_before, info.not_after),
    ),
    terms([
      ["Subject", nameText(info.subject)],
      ["Names", nameList(info.sans)],
      ["Issuer", nameText(info.issuer)],
      ["Valid", `${moment(info.not_before)} to ${moment(info.not_after)}`],
      ["Serial number", info.serial_number, "mono"],
      ["Signature", info.sigalg],
      ["Key identifier", info.subject_key_id, "mono"],
      ["Issuer's key", info.authority_key_id, "mono"],
    ]),
    make("details", null, make("summary", null, "PEM"), make("pre", null, info.pem.trim())),
    make(
      "div",
      { class: "actions" },
      copyButton("Copy PEM", info.pem),
      saveButton("Save PEM", info.pem, `${fileName(title(info.subject))}.pem`),
    ),
  );
}

/** Describe a PEM certificate with certinfo; a plain block of text where the server does not offer it. */
async function describe(pem, role) {
  try {
    return certificateCard((await call("certinfo", { certificate: pem })).result, role);
  } catch {
    return make("article", { class: "certificate" }, make("h3", null, role || "Certificate"), make("pre", null, pem));
  }
}

function splitPEM(text) {
  return text.match(/-----BEGIN CERTIFICATE-----[^]*?-----END CERTIFICATE-----/g) || [];
}

function bundleSummary(bundle) {
  const status = bundle.status;
  const messages = status.messages || [];
  const kind = status.code & 1 ? "warn" : "good";
  const text = bundle.root
    ? `Trusted until ${moment(bundle.expires)}, as far as the stores of this server go.`
    : `Each certificate is signed by the next one; the first expires on ${moment(bundle.expires)}.`;
  const notes = messages.length
    ? make("details", null, make("summary", null, `${messages.length} ${messages.length === 1 ? "remark" : "remarks"}`),
      make("ul", null, ...messages.map((message) => make("li", null, message))))
    : null;
  return notice(kind, text, status.rebundled ? " The chain differs from what was given." : null, notes);
}

async function showBundle(fields) {
  const given = { flavor: fields.flavor };
  if (fields.certificate) given.certificate = fields.certificate;
  if (fields.domain) given.domain = fields.domain;
  if (fields.ip) given.ip = fields.ip;
  if (!given.certificate && !given.domain) throw new Error("Paste a certificate, or name a server.");
  const bundle = (await call("bundle", given)).result;
  const chain = splitPEM(bundle.bundle);
  const roles = chain.map((_, position) => (position === 0 ? "to be sent first" : "intermediate"));
  if (bundle.root && chain[chain.length - 1] !== bundle.root) {
    chain.push(bundle.root);
    roles.push("root, not sent");
  }
  const cards = await Promise.all(chain.map((pem, position) => describe(pem, roles[position])));
  const saved = `${fileName((bundle.hostnames || [])[0] || "bundle")}-bundle.pem`;
  return [
    bundleSummary(bundle),
    terms([
      ["Key", `${bundle.key_type}`],
      ["Signature", bundle.signature],
      ["OCSP", (bundle.ocsp || []).join(", ") || "none"],
      ["CRL", bundle.crl_support ? "yes" : "none"],
    ]),
    make("div", { class: "actions" }, copyButton("Copy bundle", `${bundle.bundle}\n`),
      saveButton("Save bundle", `${bundle.bundle}\n`, saved)),
    make("h2", null, "Chain"),
    make("ol", { class: "several chain" }, ...cards.map((card) => make("li", null, card))),
  ];
}

async function showCertificate(fields) {
  const given = fields.certificate ? { certificate: fields.certificate } : { domain: fields.domain };
  if (!fields.certificate && !fields.domain) throw new Error("Paste a certificate, or name a server.");
  const blocks = splitPEM(fields.certificate || "");
  if (blocks.length > 1) {
    const cards = await Promise.all(blocks.map((pem) => call("certinfo", { certificate: pem })));
    return [make("ol", { class: "several" }, ...cards.map((reply) => make("li", null, certificateCard(reply.result))))];
  }
  return [certificateCard((await call("certinfo", given)).result)];
}

const GRADES = { Good: "good", Warning: "warn", Bad: "bad" };

async function showScan(fields) {
  const given = { host: fields.host };
  if (fields.ip) given.ip = fields.ip;
  if (fields.family) given.family = `^${fields.family}$`;
  const families = (await call("scan", given)).result;
  return Object.keys(families).sort().map((family) => make(
    "section",
    { class: "family" },
    make("h3", null, family),
    ...Object.keys(families[family]).sort().map((scanner) => scannerLine(scanner, families[family][scanner])),
  ));
}

function scannerLine(name, found) {
  const output = found.output === undefined || found.output === null ? null : make(
    "details", null, make("summary", null, "Details"), make("pre", null, JSON.stringify(found.output, null, 2)),
  );
  return make(
    "div",
    { class: "scanner" },
    make("div", { class: "line" }, make("span", null, name),
      make("span", { class: `pill ${GRADES[found.grade] || ""}` }, found.grade)),
    found.error ? make("p", { class: "why" }, found.error) : null,
    output,
  );
}

async function showSigner(fields) {
  const info = (await call("info", { label: fields.label, profile: fields.profile })).result;
  return [
    terms([["Usages", nameList(info.usages) || "those of the request"], ["Certificates are valid for", info.expiry]]),
    make("h2", null, "CA certificate"),
    await describe(info.certificate),
  ];
}

const SHOW = { certinfo: showCertificate, bundle: showBundle, scan: showScan, info: showSigner };

async function submit(form) {
  const button = form.querySelector("button");
  const result = form.parentElement.querySelector(".result");
  const fields = Object.fromEntries([...new FormData(form)].map(([key, value]) => [key, value.trim()]));
  button.disabled = true;
  result.replaceChildren(make("p", { class: "lead" }, "Waiting for the server"));
  try {
    result.replaceChildren(...await SHOW[form.dataset.call](fields));
  } catch (error) {
    result.replaceChildren(failure(error, () => submit(form)));
  } finally {
    button.disabled = false;
  }
}

async function readFile(event) {
  const [file] = event.target.files;
  if (file) document.getElementById(event.target.dataset.into).value = await file.text();
  event.target.value = "";
}

/** Offer the families of scanners, where the server has them. */
async function offerFamilies() {
  try {
    const families = (await call("scaninfo", {})).result;
    const select = document.getElementById("scan-family");
    select.append(...Object.keys(families).sort().map((name) => make("option", { value: name }, name)));
  } catch { /* the server then says so when it is asked to scan */ }
}

function chosenView() {
  if (location.hash === "#signer") return "info";
  return { "/bundle": "bundle", "/scan": "scan" }[location.pathname] || "certinfo";
}

let familiesOffered = false;

function showView() {
  const view = chosenView();
  for (const section of document.querySelectorAll("section[data-view]")) section.hidden = section.dataset.view !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${document.querySelector(`section[data-view="${view}"] h1`).textContent} - ocspd`;
  if (view === "scan" && !familiesOffered) {
    familiesOffered = true;
    offerFamilies();
  }
}

for (const link of document.querySelectorAll("nav a, .name")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    history.pushState(null, "", link.getAttribute("href"));
    showView();
  });
}
for (const form of document.querySelectorAll("form")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit(form);
  });
}
for (const input of document.querySelectorAll('input[type="file"]')) input.addEventListener("change", readFile);
window.addEventListener("popstate", showView);
window.addEventListener("hashchange", showView);
showView();
