//! Letters: what a buyer reads of an event. An event has one template, of plain text: the first line is the subject, the
//! paragraphs follow. Two layouts make a mail's two parts of it, so that both say the same, and the HTML one escapes
//! whatever a buyer, a carrier or a provider has written.

use askama::Template;
use chrono::{DateTime, Utc};
use serde_json::Value;
use souk_actors::{
    domain::{Money, OrderStatus, PaymentSummary, SkuId},
    ports::Notice,
    store::read::{LineView, OrderView},
};
use std::collections::HashMap;

/// Declares the letters: the event's word, its template, and whether the order's lines stand in it.
macro_rules! letters {
    ($($kind:literal $file:tt $with_lines:literal,)+) => {
        /// Every event that there is a letter for.
        #[cfg(test)]
        const KINDS: &[&str] = &[$($kind),+];

        /// The words of an event's letter, and whether the order's lines go with them; none where no letter tells of it.
        fn words(kind: &str, o: &Facts) -> Option<(askama::Result<String>, bool)> {
            match kind {
                $($kind => {
                    #[derive(Template)]
                    #[template(path = $file, escape = "none")]
                    struct Words<'a> {
                        o: &'a Facts,
                    }
                    Some((Words { o }.render(), $with_lines))
                })+
                _ => None,
            }
        }
    };
}

letters! {
    "confirmed" "confirmed.txt" true,
    "expired" "expired.txt" true,
    "cancelled" "cancelled.txt" true,
    "lines_cancelled" "lines_cancelled.txt" true,
    "not_cancelled" "not_cancelled.txt" true,
    "partially_paid" "partially_paid.txt" true,
    "payment_declined" "payment_declined.txt" true,
    "payment_failed" "payment_failed.txt" true,
    "payment_mismatch" "payment_mismatch.txt" true,
    "approved_too_late" "approved_too_late.txt" true,
    "authorisation_ended" "authorisation_ended.txt" true,
    "refund_pending" "refund_pending.txt" false,
    "refunded" "refunded.txt" false,
    "refund_failed" "refund_failed.txt" false,
    "shipped" "shipped.txt" false,
    "out_for_delivery" "out_for_delivery.txt" false,
    "delivery_needs_you" "delivery_needs_you.txt" false,
    "delivered" "delivered.txt" false,
    "delivery_exception" "delivery_exception.txt" false,
    "returned_to_sender" "returned_to_sender.txt" false,
    "return_approved" "return_approved.txt" false,
    "return_declined" "return_declined.txt" false,
    "return_received" "return_received.txt" false,
}

/// What the words may speak of.
struct Facts {
    name: String,
    reference: String,
    total: String,
    free: bool,
    /// Whether its money is reserved, and not taken yet.
    reserved: bool,
    /// Whether the order waits for a payment, and until when.
    payable: bool,
    deadline: String,
    /// Of a refund, or what has come so far.
    amount: String,
    because: &'static str,
    /// Whether the parcel holds all of the order.
    complete: bool,
    /// With whom it travels and under which number, as the end of a sentence; may be empty.
    parcel: String,
    /// A reason that a person gave, as the end of a sentence; may be empty.
    why: String,
}

impl Facts {
    fn of(notice: &Notice, order: &OrderView) -> Self {
        let data = &notice.data;
        Self {
            name: order.shipping_address.name.clone(),
            reference: order.order_id.to_string(),
            total: order.total.to_string(),
            free: order.total.minor == 0,
            reserved: order.payment_status == PaymentSummary::Authorised,
            payable: order.status == OrderStatus::AwaitingPayment,
            deadline: moment(order.hold_expires_at),
            amount: money(data.get("paid").unwrap_or(&data["amount"])),
            because: because(text(data, "reason")),
            complete: data["partial"] != true,
            parcel: parcel(data),
            why: ending(": ", text(data, "why").or(text(data, "reason"))),
        }
    }
}

fn moment(at: DateTime<Utc>) -> String {
    at.format("%-d %B %Y, %H:%M UTC").to_string()
}

fn text<'a>(data: &'a Value, field: &str) -> Option<&'a str> {
    data[field].as_str().filter(|text| !text.is_empty())
}

fn ending(before: &str, text: Option<&str>) -> String {
    text.map(|text| format!("{before}{text}")).unwrap_or_default()
}

/// An amount as events carry it.
fn money(amount: &Value) -> String {
    match (text(amount, "amount"), text(amount, "currency")) {
        (Some(amount), Some(currency)) => format!("{amount} {currency}"),
        _ => "your money".to_owned(),
    }
}

/// Why money goes back, where the word is one that a buyer can make something of.
fn because(reason: Option<&str>) -> &'static str {
    match reason {
        Some("mismatch") => ", because it was not what the order costs",
        Some("overpaid") => ", because the order had been paid before",
        Some("slow_payment") => ", because its payment would take days, and goods of a sale are not kept for so long",
        Some("cancelled") => ", because the order was cancelled",
        Some("out_of_stock") => ", because the payment came late and the goods were sold meanwhile",
        Some(_) | None => "",
    }
}

fn parcel(data: &Value) -> String {
    match (text(data, "carrier"), text(data, "tracking_number")) {
        (Some(carrier), Some(number)) => format!(", with {} under the number {number}", carrier.to_uppercase()),
        (None, Some(number)) => format!(", under the number {number}"),
        (_, None) => String::new(),
    }
}

/// Only an address of the web becomes a link.
fn tracking_url(data: &Value) -> Option<&str> {
    text(data, "tracking_url").filter(|url| url.starts_with("https://") || url.starts_with("http://"))
}

/// One line of an order, as a letter says it.
struct Line {
    quantity: i64,
    name: String,
    total: String,
}

/// Everything that a layout lays out.
struct Laid<'a> {
    subject: &'a str,
    paragraphs: &'a [&'a str],
    lines: &'a [Line],
    total: String,
    tracking_url: Option<&'a str>,
    reference: String,
    order_url: &'a str,
    shop: &'a str,
}

#[derive(Template)]
#[template(path = "layout.txt", escape = "none")]
struct Text<'a> {
    letter: &'a Laid<'a>,
}

#[derive(Template)]
#[template(path = "layout.html")]
struct Html<'a> {
    letter: &'a Laid<'a>,
}

/// What the shop adds to every letter.
pub(super) struct Shop<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where the buyer sees the order.
    pub order_url: &'a str,
    /// What its SKUs are called; one that is not named goes by its id.
    pub names: &'a HashMap<SkuId, String>,
}

/// A letter, ready to be put into a mail.
pub(super) struct Letter {
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// Writes the letter of an event; none where no letter tells of it.
///
/// # Errors
/// What a template says, which none of ours does.
pub(super) fn write(notice: &Notice, order: &OrderView, shop: &Shop<'_>) -> Option<askama::Result<Letter>> {
    let (words, with_lines) = words(&notice.kind, &Facts::of(notice, order))?;
    Some(words.and_then(|words| lay_out(&words, with_lines, notice, order, shop)))
}

fn lay_out(
    words: &str,
    with_lines: bool,
    notice: &Notice,
    order: &OrderView,
    shop: &Shop<'_>,
) -> askama::Result<Letter> {
    let mut paragraphs = words.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty());
    let subject = paragraphs.next().unwrap_or_default();
    let paragraphs: Vec<&str> = paragraphs.collect();
    let (lines, total) = if with_lines { told(notice, order, shop) } else { (Vec::new(), order.total) };
    let letter = &Laid {
        subject,
        paragraphs: &paragraphs,
        lines: &lines,
        total: total.to_string(),
        tracking_url: tracking_url(&notice.data),
        reference: order.order_id.to_string(),
        order_url: shop.order_url,
        shop: shop.name,
    };
    Ok(Letter { subject: subject.to_owned(), text: Text { letter }.render()?, html: Html { letter }.render()? })
}

/// The lines that an event is about, and what they come to: all of the order, unless the event names some.
fn told(notice: &Notice, order: &OrderView, shop: &Shop<'_>) -> (Vec<Line>, Money) {
    let line = |(line, quantity): (&LineView, i64)| {
        let total = Money::new(line.unit_price.minor.saturating_mul(quantity), line.unit_price.currency);
        let name = shop.names.get(&line.sku_id).cloned().unwrap_or_else(|| line.sku_id.to_string());
        (Line { quantity, name, total: total.to_string() }, total.minor)
    };
    let Some(named) = notice.data["lines"].as_array() else {
        let lines = order.lines.iter().map(|own| line((own, own.quantity)).0);
        return (lines.collect(), order.total);
    };
    let of = |units: &Value| {
        let at = usize::try_from(units["line"].as_i64()?).ok()?;
        Some((order.lines.get(at)?, units["quantity"].as_i64()?))
    };
    let (lines, minors): (Vec<Line>, Vec<i64>) = named.iter().filter_map(of).map(line).unzip();
    (lines, Money::new(minors.into_iter().sum(), order.total.currency))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use souk_actors::domain::{Address, MAILED, NextStep, NoticeId, OrderId, PartState, PaymentSummary};

    use super::*;

    fn order(name: &str) -> OrderView {
        let usd = |minor| Money::new(minor, "USD".parse().expect("known"));
        let at = DateTime::UNIX_EPOCH;
        OrderView {
            order_id: OrderId(7),
            status: OrderStatus::AwaitingPayment,
            payment_status: PaymentSummary::Unpaid,
            fulfilment_status: souk_actors::domain::Fulfilment::Unfulfilled,
            hold_reason: None,
            next: NextStep { what: "", by: None },
            lines: vec![LineView {
                sku_id: SkuId(1),
                quantity: 2,
                unit_price: usd(1_250),
                total: usd(2_500),
                reservation: PartState::Held,
            }],
            shipping: None,
            total: usd(2_500),
            hold_expires_at: at,
            created_at: at,
            email: "ann@example.com".into(),
            shipping_address: Address {
                name: name.into(),
                line1: "1 Main St".into(),
                line2: None,
                city: "Springfield".into(),
                region: None,
                postal_code: String::new(),
                country: "US".into(),
            },
            payments: Vec::new(),
            refunds: Vec::new(),
        }
    }

    fn letter(kind: &str, data: Value, name: &str) -> Letter {
        let (id, order_id, at) = (NoticeId(1), OrderId(7), DateTime::UNIX_EPOCH);
        let notice = Notice { id, order_id, event_seq: 2, kind: kind.to_owned(), data, at, to: None };
        let names = HashMap::from([(SkuId(1), "Lamp <b>&</b>".to_owned())]);
        let shop = Shop { name: "Souk", order_url: "https://shop.example/orders/7?token=t&x=1", names: &names };
        write(&notice, &order(name), &shop).expect("there is one").expect("it is written")
    }

    #[test]
    fn there_is_a_letter_for_every_event_that_is_mailed_and_no_other() {
        let sorted = |kinds: &[&'static str]| {
            let mut kinds = kinds.to_vec();
            kinds.sort_unstable();
            kinds
        };
        assert_eq!(sorted(KINDS), sorted(MAILED));
        for kind in KINDS {
            let letter = letter(kind, json!({}), "Ann");
            assert!(letter.subject.contains(&OrderId(7).to_string()) && letter.subject.lines().count() == 1, "{kind}");
            assert!(letter.text.contains("Ann") && letter.html.contains("Ann"), "{kind}: {}", letter.text);
            assert!(letter.text.contains("https://shop.example/orders/7?token=t&x=1"), "{kind}");
            for leftover in ["{{", "{%", "None", " ,", "..", "\n\n\n"] {
                assert!(!letter.text.contains(leftover), "{kind} has {leftover:?}: {}", letter.text);
            }
        }
    }

    #[test]
    fn a_letter_reads_well() {
        let refund = json!({ "amount": { "amount": "12.50", "currency": "USD" }, "reason": "overpaid" });
        let want = format!(
            "Hello Ann: 12.50 USD have gone back to you, because the order had been paid before.\n\n\
             The money returns the way it came. Until it shows in your account, a bank may take a few days.\n\n\
             Your order {0}: https://shop.example/orders/7?token=t&x=1\n\nSouk",
            OrderId(7)
        );
        assert_eq!(letter("refunded", refund, "Ann").text, want);
        let confirmed = letter("confirmed", json!({}), "Ann").text;
        assert!(confirmed.contains("\n  2 × Lamp <b>&</b>: 25.00 USD\n  Total: 25.00 USD\n"), "{confirmed}");
        let some = json!({ "lines": [{ "line": 0, "quantity": 1 }] });
        let cancelled = letter("lines_cancelled", some, "Ann").text;
        assert!(cancelled.contains("\n  1 × Lamp <b>&</b>: 12.50 USD\n  Total: 12.50 USD\n"), "{cancelled}");
        let declined = letter("payment_declined", json!({}), "Ann").text;
        assert!(declined.contains("kept until 1 January 1970, 00:00 UTC"), "{declined}");
    }

    #[test]
    fn nothing_that_a_stranger_wrote_is_markup() {
        let hostile = r#"<script>alert("1")</script><a href='x'>"#;
        let data = json!({
            "carrier": "<img src=x>", "tracking_number": "\"><b>", "tracking_url": "javascript:alert(1)", "why": "<i>",
        });
        for kind in KINDS {
            let html = letter(kind, data.clone(), hostile).html;
            for tag in ["<script", "<img", "<b>", "<i>", "<IMG", "javascript:", "href='x'"] {
                assert!(!html.contains(tag), "{kind} lets {tag} through: {html}");
            }
            assert!(html.contains("token=t&#38;x=1"), "{kind}: {html}");
        }
    }

    #[test]
    fn a_parcel_can_be_followed() {
        let data =
            json!({ "carrier": "usps", "tracking_number": "92", "tracking_url": "https://t.example/92?a=1&b=2" });
        let letter = letter("shipped", data, "Ann");
        assert!(letter.text.contains("your order has left us, with USPS under the number 92."), "{}", letter.text);
        assert!(letter.text.contains("Follow your parcel: https://t.example/92?a=1&b=2\n"), "{}", letter.text);
        assert!(letter.html.contains(r#"<a href="https://t.example/92?a=1&#38;b=2">"#), "{}", letter.html);
    }
}
