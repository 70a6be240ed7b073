//! The page where the buyer decides. Plain HTML, no script, nothing from elsewhere.

use std::fmt::Write as _;

use axum::{
    Form,
    extract::{Query, State},
    http::{HeaderName, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
};
use serde::Deserialize;
use url::Url;

use super::{
    bank::Shared,
    orders,
    records::{Instrument, Order, Stage},
};

#[derive(Deserialize)]
pub(super) struct Visit {
    token: String,
}

#[derive(Deserialize)]
pub(super) struct Decision {
    token: String,
    action: Action,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Action {
    Pay,
    Decline,
    Cancel,
}

/// `GET /checkoutnow?token=…`
pub(super) async fn show(State(bank): State<Shared>, Query(visit): Query<Visit>) -> Response {
    match bank.look(|books| books.orders.get(&visit.token).cloned()) {
        Some(order) => page(StatusCode::OK, &order_page(&order)),
        None => unknown(),
    }
}

/// `POST /checkoutnow`: what the buyer's click does, and back to the shop.
pub(super) async fn decide(State(bank): State<Shared>, Form(decision): Form<Decision>) -> Response {
    let Some(order) = bank.look(|books| books.orders.get(&decision.token).cloned()) else { return unknown() };
    let instrument = match decision.action {
        Action::Cancel => return send_back(order.experience.cancel_url.as_deref(), &order.id, None),
        Action::Pay => Instrument::Good,
        Action::Decline => Instrument::Refused,
    };
    match bank.approve(&order.id, instrument).await {
        Ok(order) => send_back(order.experience.return_url.as_deref(), &order.id, Some(orders::PAYER_ID)),
        Err(_paid_already) => page(StatusCode::CONFLICT, &order_page(&order)),
    }
}

/// 303 to the shop, with PayPal's parameters; without an address of the shop, a page that says so.
fn send_back(to: Option<&str>, token: &str, payer: Option<&str>) -> Response {
    let Some(mut url) = to.and_then(|to| Url::parse(to).ok()) else {
        return page(
            StatusCode::OK,
            "<h1>Thank you</h1><p>The shop gave no address to return to. You may close this window.</p>",
        );
    };
    url.query_pairs_mut().append_pair("token", token);
    if let Some(payer) = payer {
        url.query_pairs_mut().append_pair("PayerID", payer);
    }
    Redirect::to(url.as_str()).into_response()
}

fn unknown() -> Response {
    page(StatusCode::NOT_FOUND, "<h1>No such order</h1><p>This link does not belong to an order of this sandbox.</p>")
}

fn order_page(order: &Order) -> String {
    let brand = order.experience.brand_name.as_deref().unwrap_or("the shop");
    let mut html = format!(
        "<p class=to>You pay {brand}</p><h1>{total}</h1>",
        brand = escape(brand),
        total = escape(&order.total().text()),
    );
    html.push_str(&items(order));
    html.push_str(&facts(order));
    html.push_str(&match order.stage {
        Stage::Open | Stage::Approved(_) => buttons(order),
        Stage::Completed { .. } => "<p class=note>This order has been paid.</p>".to_owned(),
        Stage::Voided => "<p class=note>This order has expired.</p>".to_owned(),
    });
    html
}

fn items(order: &Order) -> String {
    let mut rows = String::new();
    for item in order.units.iter().flat_map(|unit| &unit.items) {
        let (name, price) = (escape(&item.name), escape(&item.unit_amount.text()));
        let _infallible = write!(rows, "<tr><td>{} × {name}</td><td>{price}</td></tr>", escape(&item.quantity));
    }
    if rows.is_empty() { rows } else { format!("<table>{rows}</table>") }
}

fn facts(order: &Order) -> String {
    let unit = &order.units[0]; // a draft without units is refused
    let payee = unit.payee.clone().unwrap_or_else(orders::merchant);
    let payee = ["email_address", "merchant_id"].into_iter().find_map(|field| payee[field].as_str());
    let facts = [
        ("Order", Some(order.id.as_str())),
        ("Invoice", unit.invoice_id.as_deref()),
        ("For", unit.description.as_deref()),
        ("Payee", payee),
    ];
    let mut list = String::new();
    for (name, fact) in facts {
        let Some(fact) = fact else { continue };
        let _infallible = write!(list, "<dt>{name}</dt><dd>{}</dd>", escape(fact));
    }
    format!("<dl>{list}</dl>")
}

fn buttons(order: &Order) -> String {
    let note = match order.stage {
        Stage::Approved(Instrument::Refused | Instrument::Declined) => {
            "<p class=note>The card you chose does not work. Choose again.</p>"
        }
        Stage::Approved(_) => "<p class=note>You have agreed already; the shop has not taken the money yet.</p>",
        Stage::Open | Stage::Completed { .. } | Stage::Voided => "",
    };
    format!(
        "{note}<form method=post action=/checkoutnow><input type=hidden name=token value=\"{token}\">\
         <button class=pay name=action value=pay>Pay now</button>\
         <button name=action value=decline>Decline the card</button>\
         <button name=action value=cancel>Cancel and return</button></form>",
        token = escape(&order.id),
    )
}

fn page(status: StatusCode, content: &str) -> Response {
    const HEADERS: [(HeaderName, &str); 3] = [
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let html = format!("{HEAD}{content}{FOOT}");
    (status, HEADERS, Html(html)).into_response()
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
<meta name=viewport content=\"width=device-width,initial-scale=1\"><title>Approve the payment</title><style>\
:root{color-scheme:light dark;--ink:#1c2430;--dim:#5d6877;--line:#dde2e8;--card:#fff;--back:#f2f4f7;--go:#12664f}\
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf1;--dim:#9aa5b3;--line:#333c48;--card:#1b212a;--back:#12161c;--go:#1d8a6b}}\
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\
main{max-width:26rem;margin:8vh auto;padding:2rem;background:var(--card);border:1px solid var(--line);border-radius:12px}\
h1{margin:0 0 1.5rem;font-size:2.2rem;font-variant-numeric:tabular-nums}.to{margin:0;color:var(--dim)}\
table{width:100%;border-collapse:collapse;margin-bottom:1rem}td{padding:.4rem 0;border-top:1px solid var(--line);overflow-wrap:anywhere}\
td+td{text-align:right;white-space:nowrap}dl{display:grid;grid-template-columns:auto 1fr;gap:.2rem 1rem;margin:0 0 1.5rem;color:var(--dim)}\
dd{margin:0;color:var(--ink);overflow-wrap:anywhere}.note{padding:.7rem 1rem;border:1px solid var(--line);border-radius:8px}\
form{display:grid;gap:.6rem}button{font:inherit;padding:.75rem;border:1px solid var(--line);border-radius:8px;background:none;color:inherit;cursor:pointer}\
.pay{background:var(--go);border-color:var(--go);color:#fff;font-weight:600}footer{margin-top:1.5rem;color:var(--dim);font-size:.85rem}\
</style><main>";

const FOOT: &str = "<footer>Souk sandbox: a stand-in for PayPal. No real money moves.</footer></main></html>";
