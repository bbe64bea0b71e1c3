// Everything that runs on each page. A module each; none of them knows another page's markup.
import "./menus.js";
import "./dialogs.js";
import "./toasts.js";
import "./actions.js";
import "./copy.js";
import "./keys.js";
import "./select.js";
import "./times.js";
import "./screens.js";
import "./consoles.js";
import "./live.js";
