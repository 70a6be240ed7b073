//! The sentences about the house, checked: who may use whom, who knows what.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The engine's files from the ground up: a file uses its own floor and those below it.
const FLOORS: &[&[&str]] = &[
    &["domain"],
    &["ports", "clock", "faults", "error"],
    &["shelf", "calls", "listeners", "sales"],
    &["store"],
    &["news", "retries", "flights"],
    &["journal"],
    &["context", "directory"],
    &["supervision"],
    &["sku"],
    &["room"],
    &["importer"],
    &["order", "payment", "shipping", "outbox"], // the first three answer each other
    &["checkout", "reconciler"],
    &["engine"],
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `dir`, with its text.
fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory of the project") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            found.push((path, text));
        }
    }
    found
}

/// The text without tests and comments.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Modules of the crate that a file names: `crate::a::…` and the heads of `use crate::{a::…, b}`.
fn used(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut head = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
                if depth == 1 {
                    head.push(c);
                }
            }
            used.extend(head.split(',').map(|one| first_word(one.trim())));
        } else {
            used.push(first_word(rest));
        }
    }
    used.retain(|word| !word.is_empty());
    used
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn the_engine_uses_lower_floors_only() {
    let src = root().join("actors/src");
    for (path, text) in sources(&src) {
        let relative = path.strip_prefix(&src).expect("below");
        let module = first_word(&relative.to_string_lossy());
        if module == "lib" {
            continue;
        }
        let own = floor(&module).unwrap_or_else(|| panic!("{} stands on no floor", relative.display()));
        for other in used(&code(&text)) {
            let other_floor = floor(&other);
            assert!(
                other == module || other_floor.is_none_or(|other_floor| other_floor <= own),
                "{} uses {other}, which stands above it",
                relative.display()
            );
        }
    }
}

#[test]
fn the_engine_knows_no_http_no_provider_and_no_page() {
    let manifest = fs::read_to_string(root().join("actors/Cargo.toml")).expect("a manifest");
    for stranger in ["axum", "reqwest", "lettre", "askama", "tower", "hyper", "utoipa"] {
        assert!(!manifest.contains(stranger), "the engine's manifest names {stranger}");
    }
}

#[test]
fn the_sandbox_and_the_gateways_share_nothing() {
    for (path, text) in sources(&root().join("src/sandbox")) {
        let code = code(&text);
        assert!(
            !code.contains("gateways") && !code.contains("souk_actors"),
            "{} looks at the other end",
            path.display()
        );
    }
    for (path, text) in sources(&root().join("src/gateways")) {
        assert!(!code(&text).contains("sandbox::"), "{} looks at the other end", path.display());
    }
}

#[test]
fn only_the_engine_writes_its_tables() {
    let tables = [
        "stock",
        "ledger",
        "customer_order",
        "reservation",
        "order_event",
        "payment",
        "payment_fact",
        "refund",
        "task",
        "stock_import",
        "stock_import_line",
        "outbox",
        "webhook_subscription",
        "webhook_attempt",
        "shipment",
        "shipment_line",
        "tracking_fact",
        "label_file",
        "goods_return",
        "return_line",
        "waiting_room",
        "room_call",
        "ticket_use",
        "sale",
        "sale_sku",
        "sale_price",
        "limit_use",
    ];
    for (path, text) in sources(&root().join("src")) {
        let words: Vec<String> = code(&text).split_whitespace().map(str::to_lowercase).collect();
        for window in words.windows(3) {
            let writes = match (window[0].trim_start_matches('"'), window[1].as_str()) {
                ("insert", "into") | ("delete", "from") => Some(window[2].as_str()),
                ("update", table) if window[2] == "set" => Some(table),
                _ => None,
            };
            let written = writes.map(|table| table.trim_matches(|c: char| !c.is_alphanumeric() && c != '_'));
            assert!(written.is_none_or(|table| !tables.contains(&table)), "{} writes {written:?}", path.display());
        }
    }
}

#[test]
fn time_is_read_in_one_place() {
    for dir in ["src", "actors/src"] {
        for (path, text) in sources(&root().join(dir)) {
            let own_clock = path.ends_with("clock.rs");
            assert!(own_clock || !code(&text).contains("Utc::now"), "{} reads the machine's clock", path.display());
        }
    }
    for (path, text) in sources(&root().join("actors/src/store")) {
        let asks = code(&text).to_lowercase().replace("clock.now()", "").contains("now()");
        assert!(!asks || path.ends_with("audit.rs"), "{} asks Postgres for the time", path.display());
    }
}

#[test]
fn files_are_of_a_size_to_proofread() {
    for dir in ["src", "actors/src"] {
        for (path, text) in sources(&root().join(dir)) {
            let lines = code(&text).lines().count();
            assert!(lines <= 800, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn every_setting_is_explained() {
    let manual = fs::read_to_string(root().join("config.toml")).expect("the manual");
    let mut explained = false;
    for line in manual.lines() {
        match line.trim() {
            comment if comment.starts_with('#') => explained = true,
            section if section.starts_with('[') => explained = false,
            "" => explained = false,
            // a line may share the comment of the line above it
            setting => assert!(explained, "no comment above `{setting}`"),
        }
    }
}
