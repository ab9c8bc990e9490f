// Building with text nodes only: nothing that a sensor or a caller sent is ever read as markup.
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K, className = "", text?: string,
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}
export function put(node: Element, text: string): void { if (node.textContent !== text) node.textContent = text; }
export function mark(node: Element, name: string, on: boolean): void { node.classList.toggle(name, on); }
export function find(id: string): HTMLElement {
  const node = document.getElementById(id);
  if (!node) throw new Error(`the page has no #${id}`);
  return node;
}
/** As many children as there are entries; those that stay are used again. */
export function filled<T>(parent: HTMLElement, entries: readonly T[], fresh: () => HTMLElement, draw: (node: HTMLElement, entry: T) => void): void {
  while (parent.children.length > entries.length) parent.lastElementChild?.remove();
  entries.forEach((entry, i) => {
    let node = parent.children[i] as HTMLElement | undefined;
    if (!node) parent.append((node = fresh()));
    draw(node, entry);
  });
}
export function table(heads: readonly string[], rows: readonly (readonly string[])[]): HTMLTableElement {
  const node = make("table"), head = make("tr"), body = make("tbody"), top = make("thead");
  for (const name of heads) { const cell = make("th", "", name); cell.scope = "col"; head.append(cell); }
  for (const row of rows) {
    const line = make("tr");
    for (const text of row) line.append(make("td", "", text));
    body.append(line);
  }
  top.append(head);
  node.append(top, body);
  return node;
}
