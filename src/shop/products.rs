//! Products and their SKUs. Each write is one statement, so a client that goes away leaves nothing half-done; a new SKU's
//! stock is opened by the engine right after, or, should that fail or the process die in between, by [`open_forgotten`].

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use souk_actors::{
    Engine,
    domain::{Currency, Invalid, Money, ProductId, Refusal, SaleId, SalePhase, SkuId, change::Opening, clean},
};
use sqlx::{PgPool, Row, postgres::PgRow};

use crate::problem::Problem;

/// A product with its SKUs, as a catalogue shows it.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Product {
    /// Its id.
    #[schema(value_type = String)]
    pub product_id: ProductId,
    /// Its name in addresses.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// What can be bought.
    pub skus: Vec<Sku>,
}

/// One SKU as a catalogue shows it.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Sku {
    /// Its id.
    #[schema(value_type = String)]
    pub sku_id: SkuId,
    /// The shop's own code of it.
    pub code: String,
    /// What one costs; one price a currency.
    pub prices: Vec<PriceTag>,
    /// What one costs in the first of its currencies.
    pub price: Option<PriceTag>,
    /// Units that can be sold now.
    pub available: i64,
    /// The sale that it is in, or the next one that it will be in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sale: Option<SaleTag>,
    /// How large one is, as far as that is known.
    #[serde(flatten)]
    pub size: Size,
}

/// What a sale, coming or running, makes of a SKU.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct SaleTag {
    /// Its id.
    #[schema(value_type = String)]
    pub sale_id: SaleId,
    /// What it is called.
    pub name: String,
    /// `coming` or `running`.
    #[schema(value_type = String)]
    pub status: SalePhase,
    /// When it begins.
    pub starts_at: DateTime<Utc>,
    /// When it ends; this moment is no longer in it.
    pub ends_at: DateTime<Utc>,
    /// What one costs in it.
    pub prices: Vec<PriceTag>,
    /// Units that one customer can have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_per_customer: Option<i64>,
    /// Until it ends the SKU is sold in it alone.
    pub exclusive: bool,
    /// Whether buyers queue for it.
    pub waiting_room: bool,
}

impl SaleTag {
    fn of(engine: &Engine, sku_id: SkuId) -> Option<Self> {
        let sale = engine.sale_of(sku_id)?;
        let item = sale.item(sku_id)?;
        Some(Self {
            sale_id: sale.id,
            name: sale.name.clone(),
            status: sale.phase(engine.clock().now()),
            starts_at: sale.starts_at,
            ends_at: sale.ends_at,
            prices: item.prices.iter().map(|price| PriceTag::from(*price)).collect(),
            limit_per_customer: sale.per_customer,
            exclusive: item.exclusive,
            waiting_room: sale.waiting_room,
        })
    }
}

/// How large a unit is as it is packed: what quotes for shipping are made of. What is not known is assumed by the settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Size {
    /// What it weighs, 1 to 1 000 000 grams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 450)]
    pub grams: Option<i32>,
    /// 1 to 10 000 millimetres, given with the other two or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_mm: Option<i32>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width_mm: Option<i32>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height_mm: Option<i32>,
}

impl Size {
    /// Length, width and height, where they are known.
    #[must_use]
    pub fn sides(&self) -> Option<[i64; 3]> {
        Some([self.length_mm?.into(), self.width_mm?.into(), self.height_mm?.into()])
    }

    fn check(&self, field: &str) -> Result<(), Invalid> {
        if self.grams.is_some_and(|grams| !(1..=1_000_000).contains(&grams)) {
            return Err(Invalid::new(format!("{field}.grams"), "is a whole number from 1 to 1000000"));
        }
        for (name, side) in [("length_mm", self.length_mm), ("width_mm", self.width_mm), ("height_mm", self.height_mm)]
        {
            if side.is_some_and(|side| !(1..=10_000).contains(&side)) {
                return Err(Invalid::new(format!("{field}.{name}"), "is a whole number from 1 to 10000"));
            }
            if side.is_none() && [self.length_mm, self.width_mm, self.height_mm] != [None; 3] {
                return Err(Invalid::new(format!("{field}.{name}"), "is missing: a size is given whole"));
            }
        }
        Ok(())
    }
}

/// `{"amount":"12.50","currency":"USD"}`.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Money)]
pub struct PriceTag {
    /// A decimal number with as many decimals as the currency has.
    pub amount: String,
    /// ISO 4217.
    #[schema(value_type = String)]
    pub currency: Currency,
}

impl From<Money> for PriceTag {
    fn from(money: Money) -> Self {
        Self { amount: money.amount(), currency: money.currency }
    }
}

/// A product to be made.
#[derive(Debug, Clone)]
pub struct NewProduct {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Its name in addresses; made from the name where none is given.
    pub slug: Option<String>,
    /// Its SKUs, at least one.
    pub skus: Vec<NewSku>,
}

/// A SKU to be made.
#[derive(Debug, Clone)]
pub struct NewSku {
    /// The shop's own code, unique.
    pub code: String,
    /// What one costs.
    pub price: Money,
    /// Units on hand.
    pub on_hand: i64,
    /// How large one is.
    pub size: Size,
}

/// The most SKUs that one product has.
pub const MOST_SKUS: usize = 1_000;
/// The most units that a SKU begins with.
pub const MOST_STOCK: i64 = 1_000_000_000;

/// Makes a product and opens its stock.
///
/// # Errors
/// 409 where a code or the slug is taken; 422 where a value is not what it should be.
pub async fn create(pool: &PgPool, engine: &Engine, new: NewProduct, at: DateTime<Utc>) -> Result<Product, Problem> {
    let new = checked(new)?;
    let mut ids = engine.ids(1 + new.skus.len() as i64).await?;
    let product_id = ProductId(ids.next().unwrap_or_default());
    let sku_ids: Vec<i64> = ids.collect();
    let slug = match &new.slug {
        Some(slug) => insert(pool, product_id, slug, &new, &sku_ids, at).await.map(|()| slug.clone()),
        None => insert_with_free_slug(pool, product_id, &new, &sku_ids, at).await,
    }
    .map_err(taken)?;
    let openings =
        sku_ids.iter().zip(&new.skus).map(|(sku_id, sku)| Opening { sku_id: SkuId(*sku_id), on_hand: sku.on_hand });
    engine.open_stock(openings.collect()).await?;
    let skus = sku_ids.iter().zip(new.skus).map(|(sku_id, sku)| Sku {
        sku_id: SkuId(*sku_id),
        code: sku.code,
        prices: vec![sku.price.into()],
        price: Some(sku.price.into()),
        available: sku.on_hand,
        sale: None,
        size: sku.size,
    });
    Ok(Product { product_id, slug, name: new.name, description: new.description, skus: skus.collect() })
}

fn checked(new: NewProduct) -> Result<NewProduct, Invalid> {
    let name = clean("name", &new.name, 200)?;
    if name.is_empty() {
        return Err(Invalid::new("name", "is missing"));
    }
    let slug = new.slug.as_deref().map(|slug| clean("slug", slug, 120)).transpose()?;
    if slug.as_deref().is_some_and(|slug| slugify(slug) != slug || slug.is_empty()) {
        return Err(Invalid::new("slug", "is made of a-z, 0-9 and single hyphens"));
    }
    if new.skus.is_empty() || new.skus.len() > MOST_SKUS {
        return Err(Invalid::new("skus", format!("a product has 1 to {MOST_SKUS} SKUs")));
    }
    let mut skus = Vec::with_capacity(new.skus.len());
    for (at, sku) in new.skus.into_iter().enumerate() {
        let code = clean(&format!("skus[{at}].code"), &sku.code, 64)?;
        if code.is_empty() {
            return Err(Invalid::new(format!("skus[{at}].code"), "is missing"));
        }
        if !(0..=MOST_STOCK).contains(&sku.on_hand) {
            return Err(Invalid::new(
                format!("skus[{at}].on_hand"),
                format!("is a whole number from 0 to {MOST_STOCK}"),
            ));
        }
        sku.size.check(&format!("skus[{at}]"))?;
        skus.push(NewSku { code, ..sku });
    }
    Ok(NewProduct { name, slug, skus, description: new.description })
}

/// `Café crème, 250 g` becomes `caf-cr-me-250-g`: letters that addresses show plainly, joined by hyphens.
fn slugify(name: &str) -> String {
    let lower = name.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").chars().take(120).collect()
}

async fn insert_with_free_slug(
    pool: &PgPool,
    product_id: ProductId,
    new: &NewProduct,
    sku_ids: &[i64],
    at: DateTime<Utc>,
) -> Result<String, sqlx::Error> {
    let plain = slugify(&new.name);
    if !plain.is_empty() {
        match insert(pool, product_id, &plain, new, sku_ids, at).await {
            Err(error) if constraint(&error) == Some("product_slug_once") => {}
            other => return other.map(|()| plain),
        }
    }
    let id = product_id.to_string();
    let slug = format!("{plain}-{}", &id[id.len() - 6..]).trim_start_matches('-').to_owned();
    insert(pool, product_id, &slug, new, sku_ids, at).await?;
    Ok(slug)
}

async fn insert(
    pool: &PgPool,
    product_id: ProductId,
    slug: &str,
    new: &NewProduct,
    sku_ids: &[i64],
    at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with made as (
             insert into product (id, slug, name, description, created_at, updated_at) values ($1, $2, $3, $4, $5, $5)
         ), want as (
             select * from unnest($6::bigint[], $7::text[], $8::bigint[], $9::text[], $10::bigint[], $11::int[], $12::int[],
                 $13::int[], $14::int[])
                 with ordinality as w(id, code, first_stock, currency, minor, grams, length_mm, width_mm, height_mm, n)
         ), sold as (
             insert into sku (id, product_id, code, position, first_stock, grams, length_mm, width_mm, height_mm)
             select id, $1, code, n, first_stock, grams, length_mm, width_mm, height_mm from want
         )
         insert into sku_price (sku_id, currency, minor) select id, currency, minor from want",
    )
    .bind(product_id)
    .bind(slug)
    .bind(&new.name)
    .bind(&new.description)
    .bind(at)
    .bind(sku_ids)
    .bind(new.skus.iter().map(|sku| sku.code.as_str()).collect::<Vec<_>>())
    .bind(new.skus.iter().map(|sku| sku.on_hand).collect::<Vec<_>>())
    .bind(new.skus.iter().map(|sku| sku.price.currency.to_string()).collect::<Vec<_>>())
    .bind(new.skus.iter().map(|sku| sku.price.minor).collect::<Vec<_>>())
    .bind(new.skus.iter().map(|sku| sku.size.grams).collect::<Vec<_>>())
    .bind(new.skus.iter().map(|sku| sku.size.length_mm).collect::<Vec<_>>())
    .bind(new.skus.iter().map(|sku| sku.size.width_mm).collect::<Vec<_>>())
    .bind(new.skus.iter().map(|sku| sku.size.height_mm).collect::<Vec<_>>())
    .execute(pool)
    .await?;
    Ok(())
}

fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|error| error.constraint())
}

/// A constraint's name becomes what the client did.
fn taken(error: sqlx::Error) -> Problem {
    let conflict =
        |code, detail: &str| Problem::new(axum::http::StatusCode::CONFLICT, code, "Already taken").detail(detail);
    match constraint(&error) {
        Some("product_slug_once") => conflict("slug_taken", "Another product has this slug."),
        Some("sku_code_once") => conflict("code_taken", "Another SKU has one of these codes."),
        _ => error.into(),
    }
}

/// What a product's update changes; what is not given stays.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// A new name.
    pub name: Option<String>,
    /// A new description.
    pub description: Option<String>,
    /// New prices of SKUs, added or replaced by currency.
    pub prices: Vec<(SkuId, Money)>,
    /// How large SKUs are; a weight or a size that is not given stays.
    pub sizes: Vec<(SkuId, Size)>,
}

/// Changes a product.
///
/// # Errors
/// 404, or 422 where a SKU is not the product's.
pub async fn update(pool: &PgPool, product_id: ProductId, update: &Update, at: DateTime<Utc>) -> Result<(), Problem> {
    let name = update.name.as_deref().map(|name| clean("name", name, 200)).transpose()?;
    if name.as_deref() == Some("") {
        return Err(Invalid::new("name", "is missing").into());
    }
    let known: Vec<i64> =
        sqlx::query_scalar("select id from sku where product_id = $1").bind(product_id).fetch_all(pool).await?;
    let mut named = update.prices.iter().map(|(sku_id, _)| sku_id).chain(update.sizes.iter().map(|(sku_id, _)| sku_id));
    if let Some(sku_id) = named.find(|sku_id| !known.contains(&sku_id.0)) {
        return Err(Invalid::new("skus", format!("{sku_id} is no SKU of this product")).into());
    }
    for (at, (sku_id, size)) in update.sizes.iter().enumerate() {
        size.check("skus")?;
        if update.sizes[..at].iter().any(|(other, _)| other == sku_id) {
            return Err(Invalid::new("skus", "sizes one SKU twice").into());
        }
    }
    let changed = sqlx::query(
        "with priced as (
             insert into sku_price (sku_id, currency, minor)
             select * from unnest($5::bigint[], $6::text[], $7::bigint[])
             on conflict (sku_id, currency) do update set minor = excluded.minor
         ), sized as (
             update sku set grams = coalesce(w.grams, sku.grams), length_mm = coalesce(w.length_mm, sku.length_mm),
                 width_mm = coalesce(w.width_mm, sku.width_mm), height_mm = coalesce(w.height_mm, sku.height_mm)
             from unnest($8::bigint[], $9::int[], $10::int[], $11::int[], $12::int[])
                 as w(id, grams, length_mm, width_mm, height_mm)
             where sku.id = w.id
         )
         update product set name = coalesce($2, name), description = coalesce($3, description), updated_at = $4
         where id = $1",
    )
    .bind(product_id)
    .bind(name)
    .bind(&update.description)
    .bind(at)
    .bind(update.prices.iter().map(|(sku_id, _)| sku_id.0).collect::<Vec<_>>())
    .bind(update.prices.iter().map(|(_, price)| price.currency.to_string()).collect::<Vec<_>>())
    .bind(update.prices.iter().map(|(_, price)| price.minor).collect::<Vec<_>>())
    .bind(update.sizes.iter().map(|(sku_id, _)| sku_id.0).collect::<Vec<_>>())
    .bind(update.sizes.iter().map(|(_, size)| size.grams).collect::<Vec<_>>())
    .bind(update.sizes.iter().map(|(_, size)| size.length_mm).collect::<Vec<_>>())
    .bind(update.sizes.iter().map(|(_, size)| size.width_mm).collect::<Vec<_>>())
    .bind(update.sizes.iter().map(|(_, size)| size.height_mm).collect::<Vec<_>>())
    .execute(pool)
    .await
    .map_err(twice)?;
    if changed.rows_affected() == 0 { Err(Problem::not_found("product")) } else { Ok(()) }
}

fn twice(error: sqlx::Error) -> Problem {
    match error.as_database_error().and_then(|error| error.code()) {
        Some(code) if code == "21000" => Invalid::new("skus", "names one SKU twice in one currency").into(),
        _ => error.into(),
    }
}

/// Opens the stock of every SKU that has none yet: those whose product was made right before the database went away or
/// the process died. Whoever opens one a second time changes nothing.
///
/// # Errors
/// Where the database or the engine is away.
pub async fn open_forgotten(pool: &PgPool, engine: &Engine, newest: Option<i64>) -> Result<usize, Problem> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "select s.id, s.first_stock from (select id, first_stock from sku order by id desc limit $1) s
         where not exists (select from stock t where t.sku_id = s.id)",
    )
    .bind(newest)
    .fetch_all(pool)
    .await?;
    let count = rows.len();
    for chunk in rows.chunks(1_000) {
        let openings = chunk.iter().map(|(sku_id, on_hand)| Opening { sku_id: SkuId(*sku_id), on_hand: *on_hand });
        engine.open_stock(openings.collect()).await?;
    }
    Ok(count)
}

/// Which products to show.
#[derive(Debug, Clone)]
pub enum Which {
    /// Newest first, those made before this one where it is given.
    Page { before: Option<ProductId>, most: i64 },
    /// The one with this slug.
    Slug(String),
    /// The one with this id.
    Id(ProductId),
    /// The one with this SKU.
    Sku(SkuId),
}

/// Products with prices and what is available of each SKU.
///
/// # Errors
/// Where the database is away.
pub async fn find(pool: &PgPool, engine: &Engine, which: &Which) -> Result<Vec<Product>, Problem> {
    let (before, most) = match which {
        Which::Page { before, most } => (*before, *most),
        Which::Slug(_) | Which::Id(_) | Which::Sku(_) => (None, 1),
    };
    let slug = if let Which::Slug(slug) = which { Some(slug) } else { None };
    let id = if let Which::Id(id) = which { Some(*id) } else { None };
    let sku_id = if let Which::Sku(sku_id) = which { Some(*sku_id) } else { None };
    let rows = sqlx::query(
        "select p.id as product_id, p.slug, p.name, p.description, s.id as sku_id, s.code,
             s.grams, s.length_mm, s.width_mm, s.height_mm,
             array_agg(c.currency order by c.currency) filter (where c.currency is not null) as currencies,
             array_agg(c.minor order by c.currency) filter (where c.currency is not null) as minors
         from (
             select * from product
             where ($1::bigint is null or id < $1) and ($2::text is null or slug = $2) and ($3::bigint is null or id = $3)
                 and ($4::bigint is null or id = (select product_id from sku where id = $4))
             order by id desc limit $5
         ) p
         join sku s on s.product_id = p.id
         left join sku_price c on c.sku_id = s.id
         group by p.id, p.slug, p.name, p.description, s.id
         order by p.id desc, s.position",
    )
    .bind(before)
    .bind(slug)
    .bind(id)
    .bind(sku_id)
    .bind(most)
    .fetch_all(pool)
    .await?;
    let mut products = assemble(&rows)?;
    fill_available(engine, &mut products).await?;
    Ok(products)
}

fn assemble(rows: &[PgRow]) -> Result<Vec<Product>, sqlx::Error> {
    let mut products: Vec<Product> = Vec::new();
    for row in rows {
        let product_id: ProductId = row.try_get("product_id")?;
        if products.last().is_none_or(|last| last.product_id != product_id) {
            products.push(Product {
                product_id,
                slug: row.try_get("slug")?,
                name: row.try_get("name")?,
                description: row.try_get("description")?,
                skus: Vec::new(),
            });
        }
        let currencies: Vec<String> = row.try_get::<Option<_>, _>("currencies")?.unwrap_or_default();
        let minors: Vec<i64> = row.try_get::<Option<_>, _>("minors")?.unwrap_or_default();
        let tag = |(currency, minor): (&String, i64)| {
            currency.parse().ok().map(|currency| PriceTag::from(Money::new(minor, currency)))
        };
        let prices: Vec<PriceTag> = currencies.iter().zip(minors).filter_map(tag).collect();
        let price = prices.first().cloned();
        let (sku_id, code) = (row.try_get("sku_id")?, row.try_get("code")?);
        let sku = Sku { sku_id, code, prices, price, available: 0, sale: None, size: size(row)? };
        if let Some(product) = products.last_mut() {
            product.skus.push(sku);
        }
    }
    Ok(products)
}

fn size(row: &PgRow) -> Result<Size, sqlx::Error> {
    Ok(Size {
        grams: row.try_get("grams")?,
        length_mm: row.try_get("length_mm")?,
        width_mm: row.try_get("width_mm")?,
        height_mm: row.try_get("height_mm")?,
    })
}

/// How large each of these SKUs is.
///
/// # Errors
/// Where the database is away.
pub async fn sizes(pool: &PgPool, sku_ids: &[SkuId]) -> Result<HashMap<SkuId, Size>, sqlx::Error> {
    let rows = sqlx::query("select id, grams, length_mm, width_mm, height_mm from sku where id = any($1)")
        .bind(sku_ids.iter().map(|sku_id| sku_id.0).collect::<Vec<_>>())
        .fetch_all(pool)
        .await?;
    rows.iter().map(|row| Ok((row.try_get("id")?, size(row)?))).collect()
}

async fn fill_available(engine: &Engine, products: &mut [Product]) -> Result<(), Refusal> {
    let sku_ids: Vec<SkuId> = products.iter().flat_map(|product| product.skus.iter().map(|sku| sku.sku_id)).collect();
    let available = engine.available(&sku_ids).await?;
    for sku in products.iter_mut().flat_map(|product| product.skus.iter_mut()) {
        sku.available = available.get(&sku.sku_id).copied().unwrap_or(0);
        sku.sale = SaleTag::of(engine, sku.sku_id);
    }
    Ok(())
}

/// What the products of these SKUs are called, now: what was bought is the SKU.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn names(pool: &PgPool, sku_ids: &[SkuId]) -> Result<HashMap<SkuId, String>, sqlx::Error> {
    let sku_ids: Vec<i64> = sku_ids.iter().map(|sku_id| sku_id.0).collect();
    let rows = sqlx::query(
        "select sku.id, product.name from sku join product on product.id = sku.product_id where sku.id = any($1)",
    )
    .bind(&sku_ids)
    .fetch_all(pool)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("name")?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_plain() {
        assert_eq!(slugify("  The Best Mug -- 2026! "), "the-best-mug-2026");
        assert_eq!(slugify("東京"), "");
    }
}
