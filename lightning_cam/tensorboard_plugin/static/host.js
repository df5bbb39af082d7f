// What the page has to do with TensorBoard's around it, if there is one.

/** TensorBoard's page; null where this one stands alone or is part of somebody else's. */
function hostDocument() {
  try {
    return window.parent === window ? null : window.parent.document;
  } catch {
    return null; // of another origin
  }
}

/** Take over TensorBoard's light or dark theme; elsewhere the system's. */
export function followTheme() {
  const root = document.documentElement;
  const host = hostDocument()?.body;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    root.dataset.theme = (host ? host.classList.contains("dark-mode") : system.matches) ? "dark" : "light";
  };
  if (host) new MutationObserver(apply).observe(host, { attributes: true, attributeFilter: ["class"] });
  else system.addEventListener("change", apply);
  apply();
}

/** Take the keys as soon as the page is seen in its frame, unless somebody is typing elsewhere. */
export function takeFocus() {
  const host = hostDocument();
  if (!host) return;
  const take = () => {
    if (!host.activeElement?.matches("input, textarea, select, [contenteditable]")) window.focus();
  };
  new IntersectionObserver((entries) => entries.some(({ isIntersecting }) => isIntersecting) && take()).observe(document.documentElement);
}
