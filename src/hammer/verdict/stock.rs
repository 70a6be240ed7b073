//! Stock and ledger of every SKU of a run agree, every acknowledged unit is reserved once, and nothing is oversold.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};

use super::{Check, LOOK};
use crate::hammer::{
    diary::{Chapter, Found},
    staff::{Row, Staff, Stock, Trouble},
};

/// SKUs at once.
const AT_ONCE: usize = 8;
/// How often counters and rows may miss each other while others still buy.
const TRIES: usize = 5;

/// Units of each order that was acknowledged.
type Promised<'a> = HashMap<&'a str, i64>;

/// What has happened to a SKU.
#[derive(Debug, Default)]
struct Story {
    /// Acknowledged, to this run's buyers.
    promised: i64,
    /// Came from restocking and the like, less what was taken away.
    added: i64,
    /// Were reserved and given back.
    given_back: i64,
    /// Could be sold when the run began.
    at_first: i64,
    /// Can be sold now.
    left: i64,
    /// What does not agree.
    wrong: Vec<String>,
}

pub(super) async fn check(staff: &Staff, chapter: &Chapter) -> Result<Vec<Check>, Trouble> {
    let mut promised: HashMap<&str, Promised<'_>> = HashMap::new();
    for placed in &chapter.placed {
        for (sku_id, quantity) in &placed.lines {
            *promised.entry(sku_id).or_default().entry(&placed.order_id).or_default() += quantity.cast_signed();
        }
    }
    let none = Promised::new();
    let of = |sku_id: &str| promised.get(sku_id).unwrap_or(&none);
    let looks = stream::iter(chapter.found.iter().map(|found| look(staff, found, of(&found.sku_id))));
    let stories: Vec<Story> = looks.buffered(AT_ONCE).try_collect().await?;
    if stories.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![agree(chapter, &stories), sold(chapter, &stories)])
}

async fn look(staff: &Staff, found: &Found, promised: &Promised<'_>) -> Result<Story, Trouble> {
    for _ in 1..TRIES {
        let (now, rows) = staff.moves(&found.sku_id, found.row).await?;
        if adds_up(found, now, &rows) {
            return Ok(tell(found, now, &rows, promised));
        }
        tokio::time::sleep(LOOK).await;
    }
    let (now, rows) = staff.moves(&found.sku_id, found.row).await?;
    Ok(tell(found, now, &rows, promised))
}

fn adds_up(found: &Found, now: Stock, rows: &[Row]) -> bool {
    let on_hand = found.on_hand + rows.iter().map(|row| row.d_on_hand).sum::<i64>();
    let reserved = found.reserved + rows.iter().map(|row| row.d_reserved).sum::<i64>();
    now == Stock { on_hand, reserved }
}

fn tell(found: &Found, now: Stock, rows: &[Row], promised: &Promised<'_>) -> Story {
    let sku_id = &found.sku_id;
    let mut story = Story {
        promised: promised.values().sum(),
        at_first: found.on_hand - found.reserved,
        left: now.on_hand - now.reserved,
        ..Story::default()
    };
    if !adds_up(found, now, rows) {
        story.wrong.push(format!("{sku_id}: its counters are not what its ledger comes to"));
    }
    let mut reserved: HashMap<&str, Vec<&Row>> = HashMap::new();
    for row in rows {
        match row.cause.as_str() {
            "release" | "expire" => story.given_back -= row.d_reserved,
            _ => story.added += row.d_on_hand - row.d_reserved.min(0),
        }
        if let Some(order_id) = &row.order_id {
            reserved.entry(order_id).or_default().push(row);
        }
    }
    for (order_id, units) in promised {
        let rows = reserved.get(order_id).map_or(&[][..], Vec::as_slice);
        if let Some(wrong) = unkept(*units, rows) {
            story.wrong.push(format!("{sku_id}: {order_id} was promised {units} units, {wrong}"));
        }
    }
    story
}

/// How a promise of so many units was broken, if it was: they are reserved once, or once more after each time that the hold
/// had run out, and all of them or none belong to the order now.
fn unkept(units: i64, rows: &[&Row]) -> Option<String> {
    let sum = |cause: &str| rows.iter().filter(|row| row.cause == cause).map(|row| row.d_reserved).sum::<i64>();
    let (reserved, expired, released) = (sum("reserve"), -sum("expire"), -sum("release"));
    let kept = reserved - expired - released;
    let once = reserved == units || reserved == units + expired;
    match (once, kept == units || kept == 0) {
        (true, true) => None,
        (false, _) => Some(format!("and {reserved} were reserved")),
        (true, false) => Some(format!("and has {kept}")),
    }
}

fn agree(chapter: &Chapter, stories: &[Story]) -> Check {
    let findings: Vec<String> = stories.iter().flat_map(|story| story.wrong.clone()).collect();
    let promised: i64 = stories.iter().map(|story| story.promised).sum();
    let (skus, run) = (stories.len(), chapter.opening.run.as_str());
    let said = format!("stock and ledger of {skus} SKUs agree; each of {promised} acknowledged units is reserved once");
    let said = if findings.is_empty() { said } else { "stock, ledger and acknowledgements do not agree".to_owned() };
    Check::of(run, "stock", said, findings)
}

fn sold(chapter: &Chapter, stories: &[Story]) -> Check {
    let mut findings = Vec::new();
    for (story, found) in stories.iter().zip(&chapter.found) {
        let sku_id = &found.sku_id;
        let had = story.at_first + story.added + story.given_back;
        if story.promised > had || story.left < 0 {
            let Story { promised, left, .. } = story;
            findings.push(format!("{sku_id}: {promised} units were promised of {had}, and {left} are left"));
        }
    }
    let mut said = "nothing is oversold".to_owned();
    if let ([story], Some(ending)) = (stories, &chapter.ending) {
        let first: u64 =
            chapter.placed.first().map_or(1, |placed| placed.lines.iter().map(|(_, quantity)| quantity).sum());
        let Story { promised, at_first, left, .. } = story;
        said = format!("nothing is oversold: {promised} of {at_first} units, {left} are left");
        // who is told so while others still may give theirs back was told the truth
        if ending.sold_out > 0 && story.given_back == 0 {
            said.push_str(": sold out exactly");
            if *left >= first.cast_signed() {
                findings.push(format!("{} buyers were told that it is sold out, and {left} are left", ending.sold_out));
            }
        }
    }
    let said = if findings.is_empty() { said } else { "not as much was sold as there was".to_owned() };
    Check::of(&chapter.opening.run, "sold", said, findings)
}
