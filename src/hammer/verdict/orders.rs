//! Every acknowledged order is there, once, as its buyer knows it; nobody has an order without having been told; what was
//! paid is confirmed, or its money went back; and nobody got an answer that no buyer should get.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};

use super::{Check, LOOK};
use crate::hammer::{
    diary::{Acknowledged, Chapter, Ending},
    staff::{Order, Staff, Trouble},
    wish::Wishes,
};

/// Orders that are opened as their buyers would, at most; evenly spread over the run.
const OPENED: usize = 1_000;
/// Questions at once.
const AT_ONCE: usize = 8;
/// How long a payment may take to come to its end: a bank repeats a webhook that a dead shop has missed, ever more slowly.
const PAYMENT: Duration = Duration::from_secs(240);

pub(super) async fn check(staff: &Staff, chapter: &Chapter) -> Result<Vec<Check>, Trouble> {
    let shown = list(staff, chapter).await?;
    let mut checks = vec![exist(chapter, &shown), told(chapter, &shown), open(staff, chapter).await?];
    if !chapter.paid.is_empty() {
        checks.push(paid(staff, chapter, &shown).await?);
    }
    checks.extend(chapter.ending.iter().flat_map(|ending| answers(&chapter.opening.run, ending)));
    Ok(checks)
}

/// Who got no answer, or one that no buyer should get.
fn answers(run: &str, ending: &Ending) -> Vec<Check> {
    let mut checks = Vec::new();
    if ending.unanswered > 0 {
        let said = format!("{} buyers never got an answer, however often they asked", ending.unanswered);
        checks.push(Check::of(run, "answered", said.clone(), vec![said]));
    }
    if !ending.wrong.is_empty() {
        let said = format!("{} answers were such that no buyer should get", ending.wrong.values().sum::<u64>());
        let findings = ending.wrong.iter().map(|(what, count)| format!("{count} times {what}")).collect();
        checks.push(Check::of(run, "wrong", said, findings));
    }
    checks
}

/// The orders of a run by their buyers' numbers, as staff's list shows them.
async fn list(staff: &Staff, chapter: &Chapter) -> Result<HashMap<u64, Vec<Order>>, Trouble> {
    let domain = Wishes::domain(&chapter.opening.run);
    let mut shown: HashMap<u64, Vec<Order>> = HashMap::new();
    let number = |email: &str| email.strip_suffix(&domain)?.strip_prefix('b')?.parse().ok();
    let take = |order: Order| {
        if let Some(number) = number(&order.email) {
            shown.entry(number).or_default().push(order);
        }
    };
    staff.orders(chapter.opening.newest_order.as_deref(), take).await?;
    Ok(shown)
}

fn exist(chapter: &Chapter, shown: &HashMap<u64, Vec<Order>>) -> Check {
    let mut findings = Vec::new();
    let mut numbers: HashMap<&str, u64> = HashMap::new();
    for Acknowledged { number, order_id, .. } in &chapter.placed {
        if numbers.insert(order_id, *number).is_some_and(|other| other != *number) {
            findings.push(format!("{order_id} was acknowledged to two buyers"));
        }
        match shown.get(number).map(Vec::as_slice) {
            Some([only]) if only.order_id == *order_id => {}
            Some([only]) => findings.push(format!("buyer {number} was told {order_id} and has {}", only.order_id)),
            Some(several) => findings.push(format!("buyer {number} has {} orders", several.len())),
            None => findings.push(format!("{order_id} of buyer {number} was acknowledged and is not there")),
        }
    }
    let said = format!("{} orders were acknowledged and are there, each once", numbers.len());
    let said = if findings.is_empty() { said } else { "what was acknowledged is not what is there".to_owned() };
    Check::of(&chapter.opening.run, "exist", said, findings)
}

/// A run that was killed has not written down what it was told last.
fn told(chapter: &Chapter, shown: &HashMap<u64, Vec<Order>>) -> Check {
    let known: std::collections::HashSet<u64> = chapter.placed.iter().map(|placed| placed.number).collect();
    let untold: Vec<(&u64, &Order)> = shown
        .iter()
        .filter(|(number, _)| !known.contains(*number))
        .flat_map(|(n, all)| all.iter().map(move |o| (n, o)))
        .collect();
    let tell = |(number, order): &(&u64, &Order)| {
        format!("{} of buyer {number} is there, and the buyer was told that there is none", order.order_id)
    };
    let is_whole = chapter.ending.as_ref().is_some_and(|ending| ending.unanswered == 0);
    let (said, findings) = match untold.len() {
        0 => ("nobody has an order without having been told".to_owned(), Vec::new()),
        count if is_whole => {
            (format!("{count} orders are there without an acknowledgement"), untold.iter().map(tell).collect())
        }
        count => (format!("{count} orders are there that the journal's end has missed"), Vec::new()),
    };
    Check::of(&chapter.opening.run, "told", said, findings)
}

async fn open(staff: &Staff, chapter: &Chapter) -> Result<Check, Trouble> {
    let step = chapter.placed.len().div_ceil(OPENED).max(1);
    let opened: Vec<&Acknowledged> = chapter.placed.iter().step_by(step).collect();
    let looks = stream::iter(opened.iter().map(|placed| look(staff, placed))).buffer_unordered(AT_ONCE);
    let findings: Vec<Option<String>> = looks.try_collect().await?;
    let findings: Vec<String> = findings.into_iter().flatten().collect();
    let said = format!("{} of them were opened as their buyers open them: what was bought stands there", opened.len());
    let said = if findings.is_empty() { said } else { "buyers do not see what they bought".to_owned() };
    Ok(Check::of(&chapter.opening.run, "open", said, findings))
}

async fn look(staff: &Staff, placed: &Acknowledged) -> Result<Option<String>, Trouble> {
    let Acknowledged { order_id, token, lines, .. } = placed;
    let Some(order) = staff.as_buyer(order_id, token).await? else {
        return Ok(Some(format!("{order_id} does not open to its buyer")));
    };
    let mut bought: HashMap<&str, u64> = HashMap::new();
    for (sku_id, quantity) in lines {
        *bought.entry(sku_id).or_default() += quantity;
    }
    let mut stands: HashMap<&str, u64> = HashMap::new();
    for line in order["lines"].as_array().into_iter().flatten() {
        *stands.entry(line["sku_id"].as_str().unwrap_or_default()).or_default() +=
            line["quantity"].as_u64().unwrap_or(0);
    }
    Ok((bought != stands).then(|| format!("{order_id}: {bought:?} were bought, and it says {stands:?}")))
}

async fn paid(staff: &Staff, chapter: &Chapter, shown: &HashMap<u64, Vec<Order>>) -> Result<Check, Trouble> {
    let placed: HashMap<u64, &Acknowledged> = chapter.placed.iter().map(|placed| (placed.number, placed)).collect();
    let is_kept = |number: &u64| shown.get(number).into_iter().flatten().any(|order| is_sold(&order.status));
    let open = chapter.paid.iter().copied().filter(|number| !is_kept(number));
    let until = Instant::now() + PAYMENT;
    let ends = stream::iter(open.map(|number| end(staff, number, placed.get(&number).copied(), until)));
    let ends: Vec<Option<String>> = ends.buffer_unordered(AT_ONCE).try_collect().await?;
    let late = ends.len();
    let findings: Vec<String> = ends.into_iter().flatten().collect();
    let said = format!(
        "{} orders were paid and are confirmed, or their money went back, {late} of them after the load",
        chapter.paid.len()
    );
    let said = if findings.is_empty() { said } else { "what was paid has neither been sold nor paid back".to_owned() };
    Ok(Check::of(&chapter.opening.run, "paid", said, findings))
}

/// Waits until what was paid has come to its end; what is wrong with it, if it does not.
async fn end(
    staff: &Staff,
    number: u64,
    placed: Option<&Acknowledged>,
    until: Instant,
) -> Result<Option<String>, Trouble> {
    let Some(Acknowledged { order_id, token, .. }) = placed else {
        return Ok(Some(format!("buyer {number} has paid for an order that was not acknowledged")));
    };
    loop {
        let Some(order) = staff.as_buyer(order_id, token).await? else {
            return Ok(Some(format!("{order_id} was paid and does not open to its buyer")));
        };
        let [status, money] = ["status", "payment_status"].map(|side| order[side].as_str().unwrap_or_default());
        if is_settled(status, money) {
            return Ok(None);
        }
        if Instant::now() > until {
            return Ok(Some(format!("{order_id} was paid, and it is {status} and {money}")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_sold(status: &str) -> bool {
    matches!(status, "confirmed" | "completed")
}

/// An order that has ended may still be confirmed by late money, or owe it to its buyer: only with all of it back it is
/// settled.
fn is_settled(status: &str, money: &str) -> bool {
    is_sold(status) || matches!((status, money), ("expired" | "cancelled", "refunded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_paid_is_sold_or_paid_back() {
        for good in [("confirmed", "paid"), ("completed", "paid"), ("expired", "refunded"), ("cancelled", "refunded")] {
            assert!(is_settled(good.0, good.1), "{good:?}");
        }
        for bad in [
            ("awaiting_payment", "unpaid"),
            ("expired", "unpaid"),
            ("expired", "paid"),
            ("cancelled", "refunding"),
            ("cancelled", "partially_refunded"),
            ("cancelling", "refunded"),
            ("", ""),
        ] {
            assert!(!is_settled(bad.0, bad.1), "{bad:?}");
        }
    }
}
