//! What the buyers of a run ask for. Everything about a buyer follows from the run and the buyer's number: whoever got no
//! answer is asked for again with the same key and the same words.

use std::fmt::Write as _;

use super::line::Target;

/// A line of a basket: a SKU and so many units.
pub type Wanted = (String, u64);

/// How baskets are filled.
#[derive(Debug, Clone)]
pub enum Taste {
    /// Everybody the same.
    One(Wanted),
    /// One unit of one SKU, the first ones more often: the n-th is wanted 1/nᵉ times as often as the first.
    Zipf {
        /// The most wanted first.
        skus: Vec<String>,
        /// Of each SKU, how much is wanted of it and those before it.
        running: Vec<f64>,
    },
    /// One of these after the other.
    Baskets(Vec<Vec<Wanted>>),
}

impl Taste {
    /// `exponent` 0 wants all SKUs alike, 1 is what shops see.
    #[must_use]
    pub fn zipf(skus: Vec<String>, exponent: f64) -> Self {
        let mut sum = 0.0;
        let add = |rank: usize| {
            sum += (rank as f64).powf(-exponent);
            sum
        };
        let running = (1..=skus.len()).map(add).collect();
        Self::Zipf { skus, running }
    }

    fn basket(&self, dice: &mut fastrand::Rng, number: u64) -> Basket<'_> {
        match self {
            Self::One(wanted) => Basket::Lines(std::slice::from_ref(wanted)),
            Self::Zipf { skus, running } => {
                let point = dice.f64() * running.last().copied().unwrap_or_default();
                let at = running.partition_point(|sum| *sum <= point).min(skus.len().saturating_sub(1));
                Basket::Unit(&skus[at])
            }
            Self::Baskets(baskets) => Basket::Lines(&baskets[number as usize % baskets.len()]),
        }
    }
}

enum Basket<'a> {
    Unit(&'a String),
    Lines(&'a [Wanted]),
}

/// What becomes of an order after it is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is paid.
    Paid,
    /// It is called off.
    CalledOff,
    /// Nobody comes back to it.
    Left,
}

/// How often which fate, of a hundred orders; the rest is left.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// So many are paid.
    pub paid: u8,
    /// So many are called off.
    pub called_off: u8,
}

/// Makes the requests of a run's buyers.
#[derive(Debug, Clone)]
pub struct Wishes {
    run: String,
    seed: u64,
    taste: Taste,
    /// The head up to the key's value.
    head: String,
}

impl Wishes {
    /// `run` is a word that no other run has.
    #[must_use]
    pub fn new(target: &Target, run: &str, seed: u64, taste: Taste) -> Self {
        let host = &target.host;
        let head = format!(
            "POST /v1/checkouts HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nIdempotency-Key: hammer-{run}-"
        );
        Self { run: run.to_owned(), seed, taste, head }
    }

    /// What the orders of this run carry, beside the buyer's number, in their e-mail address.
    #[must_use]
    pub fn domain(run: &str) -> String {
        format!("@{run}.hammer.example")
    }

    /// The buyer's basket.
    #[must_use]
    pub fn lines(&self, number: u64) -> Vec<Wanted> {
        match self.taste.basket(&mut self.dice(number), number) {
            Basket::Unit(sku_id) => vec![(sku_id.clone(), 1)],
            Basket::Lines(lines) => lines.to_vec(),
        }
    }

    /// What becomes of the buyer's order.
    #[must_use]
    pub fn fate(&self, number: u64, habits: Habits) -> Fate {
        let die = self.dice(!number).u8(0..100);
        match die {
            _ if die < habits.paid => Fate::Paid,
            _ if die < habits.paid.saturating_add(habits.called_off) => Fate::CalledOff,
            _ => Fate::Left,
        }
    }

    fn dice(&self, number: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Writes the buyer's checkout into `request`, over what was there.
    pub fn checkout(&self, number: u64, request: &mut Request) {
        let Request { bytes, body } = request;
        body.clear();
        body.push_str(r#"{"lines":["#);
        match self.taste.basket(&mut self.dice(number), number) {
            Basket::Unit(sku_id) => line(body, sku_id, 1),
            Basket::Lines(lines) => lines.iter().for_each(|(sku_id, quantity)| line(body, sku_id, *quantity)),
        }
        body.pop(); // the last comma
        write!(body, r#"],"email":"b{number}@{}.hammer.example","#, self.run).ok(); // a String takes everything
        body.push_str(
            r#""currency":"USD","shipping_address":{"name":"Ann Lee","line1":"1 Main St","city":"Springfield","region":"IL","postal_code":"62701","country":"US"}}"#,
        );
        bytes.clear();
        write!(bytes, "{}{number}\r\nContent-Length: {}\r\n\r\n{body}", self.head, body.len()).ok();
    }
}

fn line(body: &mut String, sku_id: &str, quantity: u64) {
    write!(body, r#"{{"sku_id":"{sku_id}","quantity":{quantity}}},"#).ok();
}

/// A request that is written over and over.
#[derive(Debug, Default)]
pub struct Request {
    bytes: String,
    body: String,
}

impl Request {
    /// Ready to be sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn wishes(taste: Taste) -> Wishes {
        Wishes::new(&Target::of("http://127.0.0.1:1").await.expect("an address"), "r1", 7, taste)
    }

    #[tokio::test]
    async fn a_buyer_says_the_same_again() {
        let skus = (0..100).map(|at| format!("sku_{at}")).collect();
        let wishes = wishes(Taste::zipf(skus, 1.0)).await;
        let (mut first, mut again) = (Request::default(), Request::default());
        wishes.checkout(12, &mut first);
        wishes.checkout(13, &mut again);
        assert_ne!(first.bytes(), again.bytes());
        wishes.checkout(12, &mut again);
        assert_eq!(first.bytes(), again.bytes());
        let text = String::from_utf8_lossy(first.bytes()).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains("\r\nIdempotency-Key: hammer-r1-12\r\n"), "{head}");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["lines"][0]["sku_id"], wishes.lines(12)[0].0.as_str());
        assert_eq!(body["email"], format!("b12{}", Wishes::domain("r1")));
    }

    #[tokio::test]
    async fn the_first_of_a_zipf_is_wanted_most() {
        let skus: Vec<String> = (0..10).map(|at| format!("sku_{at}")).collect();
        for (exponent, wanted) in [(0.0, 0.1), (1.0, 0.341)] {
            let wishes = wishes(Taste::zipf(skus.clone(), exponent)).await;
            let first = (0..20_000).filter(|number| wishes.lines(*number)[0].0 == "sku_0").count() as f64 / 20_000.0;
            assert!((first - wanted).abs() < 0.02, "{exponent}: {first}");
        }
    }

    #[tokio::test]
    async fn fates_come_as_often_as_they_should() {
        let wishes = wishes(Taste::One(("sku_a".to_owned(), 2))).await;
        let habits = Habits { paid: 60, called_off: 10 };
        let fates: Vec<Fate> = (0..10_000).map(|number| wishes.fate(number, habits)).collect();
        let share = |fate| fates.iter().filter(|one| **one == fate).count();
        assert!((5_700..6_300).contains(&share(Fate::Paid)), "{}", share(Fate::Paid));
        assert!((800..1_200).contains(&share(Fate::CalledOff)), "{}", share(Fate::CalledOff));
    }
}
