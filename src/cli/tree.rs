//! `souk tree`: the supervision tree of a running shop, in the terminal.

use std::process::ExitCode;

use serde_json::Value;

use super::{Failure, nobody};
use crate::{app, config::Config};

pub(super) async fn run(config: Config, limit: usize) -> Result<ExitCode, Failure> {
    let token = app::staff_token(&config)?;
    let url = format!("http://{}/v1/ops/actors?limit={limit}", config.http.listen);
    let answer = reqwest::Client::new().get(&url).bearer_auth(token.expose()).send().await;
    let root: Value = answer.map_err(|_| nobody(&config))?.error_for_status()?.json().await?;
    let mut lines = Vec::new();
    draw(&root, "", "", &mut lines);
    println!("{}", lines.join("\n"));
    Ok(ExitCode::SUCCESS)
}

/// One line a node; `first` stands before its own name, `rest` before everything below it.
fn draw(node: &Value, first: &str, rest: &str, lines: &mut Vec<String>) {
    lines.push(format!("{first}{}", describe(node)));
    let none = Vec::new();
    let children = node["children"].as_array().unwrap_or(&none);
    let hidden = node["children_total"].as_u64().unwrap_or(0).saturating_sub(children.len() as u64);
    for (at, child) in children.iter().enumerate() {
        let last = at + 1 == children.len() && hidden == 0;
        let (branch, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(child, &format!("{rest}{branch}"), &format!("{rest}{below}"), lines);
    }
    if hidden > 0 {
        lines.push(format!("{rest}└─ … and {hidden} more"));
    }
}

fn describe(node: &Value) -> String {
    let text = |field: &str| node[field].as_str().unwrap_or("?").to_owned();
    let number = |field: &str| node[field].as_u64().unwrap_or(0);
    let mut line = format!("{}  {}", text("name"), text("status"));
    for (field, word) in [("mailbox", "waiting"), ("handled", "handled"), ("restarts", "restarts")] {
        if number(field) > 0 {
            line.push_str(&format!("  {} {word}", number(field)));
        }
    }
    if let Some(error) = node["last_error"].as_str() {
        line.push_str(&format!("  last error: {error}"));
    }
    if let Some(detail) = node["detail"].as_object() {
        let plain = detail.iter().filter(|(_, value)| value.is_number() || value.is_string());
        let figures: Vec<String> =
            plain.map(|(name, value)| format!("{name}={}", value.to_string().trim_matches('"'))).collect();
        line.push_str(&format!("  ({})", figures.join(" ")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_drawn() {
        let root = serde_json::json!({ "name": "souk", "status": "running", "children": [
            { "name": "skus", "status": "running", "children_total": 3, "children": [
                { "name": "sku/a", "status": "quarantined", "restarts": 4, "last_error": "boom" }
            ] },
            { "name": "journal", "status": "running", "handled": 7 }
        ] });
        let mut lines = Vec::new();
        draw(&root, "", "", &mut lines);
        let want = "souk  running
├─ skus  running
│  ├─ sku/a  quarantined  4 restarts  last error: boom
│  └─ … and 2 more
└─ journal  running  7 handled";
        assert_eq!(lines.join("\n"), want);
    }
}
