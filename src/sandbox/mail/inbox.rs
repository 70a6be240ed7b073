//! The inbox, for people. Plain HTML, no script, nothing from elsewhere; what a mail brings along stays in its frame.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    extract::{Path, State},
    http::{HeaderName, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
};

use super::{
    letters::Reading,
    relay::{Letter, Relay},
};
use crate::sandbox::approve::escape;

/// `GET /inbox`: newest first.
pub(super) async fn list(State(relay): State<Arc<Relay>>) -> Response {
    let letters = relay.letters();
    let mut rows = String::new();
    for letter in letters.iter().rev() {
        let reading = Reading::of(letter);
        let subject = if reading.subject.is_empty() { "(no subject)" } else { &reading.subject };
        let _infallible = write!(
            rows,
            "<tr><td><a href=\"/inbox/{id}\">{subject}</a></td><td>{to}</td><td><time>{time}</time></td></tr>",
            id = letter.id,
            subject = escape(subject),
            to = escape(&letter.envelope.to.join(", ")),
            time = letter.received.format("%d %b, %H:%M:%S"),
        );
    }
    let content = if rows.is_empty() {
        "<h1>Inbox</h1><p class=note>Nothing has been sent yet.</p>".to_owned()
    } else {
        format!(
            "<h1>Inbox <small>{}</small></h1><table><thead><tr><th>Subject</th><th>To</th><th>Received</th></tr></thead>\
             <tbody>{rows}</tbody></table><form method=post action=/inbox/empty><button>Throw all away</button></form>",
            letters.len(),
        )
    };
    page(StatusCode::OK, "Inbox", &content)
}

/// `POST /inbox/empty`
pub(super) async fn empty(State(relay): State<Arc<Relay>>) -> Response {
    match relay.empty().await {
        Ok(()) => Redirect::to("/inbox").into_response(),
        Err(_stopping) => page(StatusCode::SERVICE_UNAVAILABLE, "Inbox", "<h1>The sandbox is stopping</h1>"),
    }
}

/// `GET /inbox/{id}`
pub(super) async fn show(State(relay): State<Arc<Relay>>, Path(id): Path<u64>) -> Response {
    match relay.letter(id) {
        Some(letter) => letter_page(&letter),
        None => page(
            StatusCode::NOT_FOUND,
            "No such mail",
            "<h1>No such mail</h1><p>It was thrown away, or never came.</p><p><a href=/inbox>Inbox</a></p>",
        ),
    }
}

fn letter_page(letter: &Letter) -> Response {
    let reading = Reading::of(letter);
    let mut html = format!("<p><a href=/inbox>Inbox</a></p><h1>{}</h1>", escape(&reading.subject));
    html.push_str(&facts(letter, &reading));
    if !reading.html.is_empty() {
        // No script runs in the frame, and it inherits this page's policy: nothing is fetched from anywhere.
        let framed = escape(&format!("<base target=_blank>{}", reading.html));
        let _infallible = write!(
            html,
            "<h2>HTML</h2><iframe title=\"The mail as HTML\" sandbox=\"allow-popups allow-popups-to-escape-sandbox\" \
             srcdoc=\"{framed}\"></iframe>"
        );
    }
    if !reading.text.is_empty() {
        let _infallible = write!(html, "<h2>Text</h2><pre>{}</pre>", escape(&reading.text));
    }
    let mut rows = String::new();
    for (name, value) in &reading.headers {
        let _infallible = write!(rows, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    let _infallible = write!(
        html,
        "<details><summary>Headers</summary><dl>{rows}</dl></details>\
         <p><a href=\"/_sandbox/mail/{}/raw\">The message as it came</a></p>",
        letter.id
    );
    page(StatusCode::OK, &reading.subject, &html)
}

fn facts(letter: &Letter, reading: &Reading) -> String {
    let how = if letter.tls { "encrypted" } else { "in the clear" };
    let facts = [
        ("From", reading.from.clone()),
        ("To", letter.envelope.to.join(", ")),
        ("Received", format!("{}, {how}", letter.received.format("%d %b %Y, %H:%M:%S UTC"))),
        ("Message-ID", reading.message_id.clone()),
    ];
    let mut list = String::new();
    for (name, fact) in facts {
        let _infallible = write!(list, "<dt>{name}</dt><dd>{}</dd>", escape(&fact));
    }
    format!("<dl>{list}</dl>")
}

fn page(status: StatusCode, title: &str, content: &str) -> Response {
    const HEADERS: [(HeaderName, &str); 4] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; frame-ancestors 'none'",
        ),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let html = format!("{HEAD}<title>{}</title>{STYLE}{content}{FOOT}", escape(title));
    (status, HEADERS, Html(html)).into_response()
}

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
<meta name=viewport content=\"width=device-width,initial-scale=1\">";

const STYLE: &str = "<style>\
:root{color-scheme:light dark;--ink:#1c2430;--dim:#5d6877;--line:#dde2e8;--card:#fff;--back:#f2f4f7;--go:#12664f}\
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf1;--dim:#9aa5b3;--line:#333c48;--card:#1b212a;--back:#12161c;--go:#4fc3a1}}\
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\
main{max-width:60rem;margin:4vh auto;padding:2rem;background:var(--card);border:1px solid var(--line);border-radius:12px}\
h1{margin:0 0 1rem;font-size:1.6rem;overflow-wrap:anywhere}h1 small,h2{color:var(--dim);font-weight:400}h2{font-size:1rem;margin:1.5rem 0 .4rem}\
a{color:var(--go)}table{width:100%;border-collapse:collapse;margin-bottom:1.5rem}th{text-align:left;color:var(--dim);font-weight:400}\
td{padding:.5rem .8rem .5rem 0;border-top:1px solid var(--line);overflow-wrap:anywhere}td:last-child{white-space:nowrap;color:var(--dim)}\
dl{display:grid;grid-template-columns:auto 1fr;gap:.2rem 1rem;margin:0;color:var(--dim)}dd{margin:0;color:var(--ink);overflow-wrap:anywhere}\
iframe{width:100%;height:60vh;border:1px solid var(--line);border-radius:8px;background:#fff}\
pre{padding:1rem;border:1px solid var(--line);border-radius:8px;white-space:pre-wrap;overflow-wrap:anywhere}details{margin:1.5rem 0}\
.note{padding:.7rem 1rem;border:1px solid var(--line);border-radius:8px}\
button{font:inherit;padding:.5rem 1rem;border:1px solid var(--line);border-radius:8px;background:none;color:inherit;cursor:pointer}\
footer{margin-top:1.5rem;color:var(--dim);font-size:.85rem}</style><main>";

const FOOT: &str =
    "<footer>Souk sandbox: a stand-in for a mail relay. Nothing leaves this machine.</footer></main></html>";
