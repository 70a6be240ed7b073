//! A demo catalogue for a shop that has nothing to sell yet.

use chrono::{DateTime, Utc};
use souk_actors::{Engine, domain::Money};
use sqlx::PgPool;

use super::products::{self, NewProduct, NewSku, Size};
use crate::problem::Problem;

/// Name, description, and SKUs as code, price in cents, units on hand.
type Demo = (&'static str, &'static str, &'static [(&'static str, i64, i64)]);

const CATALOGUE: &[Demo] = &[
    ("Copper coffee pot", "A hammered cezve for two small cups.", &[("CEZVE-2", 3_450, 200), ("CEZVE-4", 4_290, 120)]),
    ("Kilim cushion", "Hand-woven wool, 45 × 45 cm.", &[("KILIM-RED", 5_900, 40), ("KILIM-BLUE", 5_900, 35)]),
    ("Mosaic lamp", "Coloured glass, brass foot.", &[("LAMP-S", 4_900, 60), ("LAMP-L", 8_900, 25)]),
    ("Olive soap, box of six", "Cold-pressed, laurel scented.", &[("SOAP-6", 1_250, 900)]),
    ("Saffron, 2 g", "First grade threads.", &[("SAFFRON-2", 1_890, 300)]),
    ("Ceramic bowl", "Iznik pattern, 16 cm.", &[("BOWL-16", 2_200, 150)]),
    ("Mint tea, 250 g", "Gunpowder green tea with nana mint.", &[("TEA-MINT", 990, 500)]),
    ("Brass astrolabe", "One of a kind.", &[("ASTROLABE", 49_900, 1)]),
];

/// The products of the demo, in dollars.
#[must_use]
pub fn catalogue() -> Vec<NewProduct> {
    let Ok(usd) = "USD".parse() else { return Vec::new() };
    let sku = |(code, minor, on_hand): &(&str, i64, i64)| NewSku {
        code: (*code).to_owned(),
        price: Money::new(*minor, usd),
        on_hand: *on_hand,
        size: Size::default(),
    };
    let product = |(name, description, skus): &Demo| NewProduct {
        name: (*name).to_owned(),
        description: (*description).to_owned(),
        slug: None,
        skus: skus.iter().map(sku).collect(),
    };
    CATALOGUE.iter().map(product).collect()
}

/// Fills an empty shop; one that sells something is left alone. Says how many products were made.
///
/// # Errors
/// Where the database or the engine is away.
pub async fn seed(pool: &PgPool, engine: &Engine, at: DateTime<Utc>) -> Result<usize, Problem> {
    let any: bool = sqlx::query_scalar("select exists (select from product)").fetch_one(pool).await?;
    if any {
        return Ok(0);
    }
    for new in catalogue() {
        products::create(pool, engine, new, at).await?;
    }
    Ok(CATALOGUE.len())
}
