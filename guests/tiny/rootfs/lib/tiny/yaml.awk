# Flattens block-style YAML to lines "path<TAB>scalar": users.0.name, ssh_pwauth, ...
# Enough of YAML for a NoCloud seed as people and tools write it: nested mappings and lists,
# plain and quoted scalars (over several lines too), "[a, b]" lists; block scalars are skipped.
function path_of(    i, text) {
    for (i = 1; i <= depth; i++) text = text (i > 1 ? "." : "") name[i]
    return text
}
function push(indent, label, item) {
    depth++
    at[depth] = indent
    name[depth] = label
    is_item[depth] = item
    delete count[path_of()]
}
function flush() {
    if (pending != "") print pending "\t" scalar
    pending = ""
}
function hold(path, text) {
    flush()
    pending = path
    scalar = text
}
# Without its quotes; the text after the closing quote is dropped.
function unquote(text,    quote) {
    quote = substr(text, 1, 1)
    text = substr(text, 2)
    if (quote == "'") {
        gsub(/''/, "\001", text)
        sub(/'.*$/, "", text)
        gsub(/\001/, "'", text)
    } else {
        gsub(/\\"/, "\001", text)
        sub(/".*$/, "", text)
        gsub(/\001/, "\"", text)
        gsub(/\\\\/, "\\", text)
    }
    return text
}
function is_open(text,    quote, rest) {
    quote = substr(text, 1, 1)
    if (quote != "'" && quote != "\"") return 0
    rest = substr(text, 2)
    if (quote == "'") gsub(/''/, "", rest)
    else gsub(/\\"/, "", rest)
    return index(rest, quote) == 0
}
function take(text,    path, parts, n, i) {
    sub(/^[ \t]+/, "", text)
    sub(/[ \t\r]+$/, "", text)
    path = path_of()
    if (text ~ /^[|>]/) {
        flush()
        block = 1
        block_indent = at[depth]
    } else if (text ~ /^\[.*\]$/) {
        text = substr(text, 2, length(text) - 2)
        n = split(text, parts, /,[ \t]*/)
        for (i = 1; i <= n; i++) hold(path "." (i - 1), plain(parts[i]))
    } else if (is_open(text)) {
        quoted = text
        quoted_path = path
    } else if (text != "") {
        hold(path, plain(text))
    }
}
function plain(text) {
    if (text ~ /^["']/) return unquote(text)
    sub(/[ \t]+#.*$/, "", text)
    return text
}
{
    gsub(/\t/, " ")
    sub(/\r$/, "")
}
quoted != "" {
    line = $0
    sub(/^ +/, "", line)
    quoted = quoted " " line
    if (!is_open(quoted)) {
        hold(quoted_path, unquote(quoted))
        quoted = ""
    }
    next
}
{
    match($0, /^ */)
    indent = RLENGTH
    rest = substr($0, indent + 1)
}
block && (rest == "" || indent > block_indent) { next }
{ block = 0 }
rest == "" || rest ~ /^#/ || rest == "---" || rest == "..." { next }
{
    if (rest !~ /^-( |$)/ && rest !~ /^("[^"]*"|'[^']*'|[A-Za-z0-9_.-]+):( |$)/) {
        if (pending != "") scalar = scalar " " plain(rest) # a plain scalar goes on
        next
    }
    dash = rest ~ /^-( |$)/
    while (depth > 0 && (at[depth] > indent || (at[depth] == indent && (!dash || is_item[depth]))))
        depth--
    while (rest ~ /^-( |$)/) {
        parent = path_of()
        push(indent, count[parent]++ "", 1)
        rest = substr(rest, 2)
        match(rest, /^ */)
        rest = substr(rest, RLENGTH + 1)
        indent += 1 + RLENGTH
    }
    if (match(rest, /^("[^"]*"|'[^']*'|[A-Za-z0-9_.-]+):( |$)/)) {
        label = substr(rest, 1, RLENGTH)
        rest = substr(rest, RLENGTH + 1)
        sub(/: ?$/, "", label)
        gsub(/["']/, "", label)
        flush()
        push(indent, label, 0)
    }
    take(rest)
}
END { flush() }
