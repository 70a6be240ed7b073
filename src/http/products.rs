//! The catalogue.

use axum::Json;
use serde::{Deserialize, Serialize};
use souk_actors::domain::{ProductId, SkuId};

use super::{
    State,
    extract::{Id, Query},
};
use crate::{
    problem::{Answer, Problem},
    shop::products::{self, PriceTag, Product, SaleTag, Which},
};

/// A page of a list.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// 1 to 100; 20 where it is not given.
    pub limit: Option<i64>,
}

/// A page of products, newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Products {
    products: Vec<Product>,
    /// Where the next page begins; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// One SKU with the product it belongs to.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct SkuAnswer {
    #[schema(value_type = String)]
    sku_id: SkuId,
    code: String,
    product_id: String,
    product_slug: String,
    product_name: String,
    price: Option<PriceTag>,
    prices: Vec<PriceTag>,
    /// Units that can be sold now, as committed.
    available: i64,
    /// The sale that it is in, or the next one that it will be in.
    #[serde(skip_serializing_if = "Option::is_none")]
    sale: Option<SaleTag>,
}

/// How many of a list: what was asked for, within bounds.
pub(crate) fn most(limit: Option<i64>) -> Answer<i64> {
    match limit {
        None => Ok(20),
        Some(limit @ 1..=100) => Ok(limit),
        Some(_) => Err(Problem::from(souk_actors::domain::Invalid::new("limit", "is a whole number from 1 to 100"))),
    }
}

/// A cursor is an id; anything else is refused.
pub(crate) fn cursor<T: std::str::FromStr>(cursor: Option<&str>) -> Answer<Option<T>> {
    let wrong = |_| Problem::from(souk_actors::domain::Invalid::new("cursor", "is not a cursor of this list"));
    cursor.map(str::parse).transpose().map_err(wrong)
}

/// Products, newest first.
#[utoipa::path(get, path = "/v1/products", tag = "catalogue", params(Page), responses((status = 200, body = Products)))]
pub(crate) async fn list(axum::extract::State(shop): State, Query(page): Query<Page>) -> Answer<Json<Products>> {
    let most = most(page.limit)?;
    let before = cursor::<ProductId>(page.cursor.as_deref())?;
    let found = products::find(&shop.pool, &shop.engine, &Which::Page { before, most }).await?;
    let full = found.len() as i64 == most;
    let next_cursor = found.last().filter(|_| full).map(|last| last.product_id.to_string());
    Ok(Json(Products { products: found, next_cursor }))
}

/// One product.
#[utoipa::path(
    get, path = "/v1/products/{slug}", tag = "catalogue", params(("slug" = String, Path)),
    responses((status = 200, body = Product), (status = 404, body = Problem))
)]
pub(crate) async fn by_slug(axum::extract::State(shop): State, Id(slug): Id<String>) -> Answer<Json<Product>> {
    if slug.contains('\0') {
        return Err(Problem::not_found("product"));
    }
    let found = products::find(&shop.pool, &shop.engine, &Which::Slug(slug)).await?;
    found.into_iter().next().map(Json).ok_or_else(|| Problem::not_found("product"))
}

/// One SKU: its price, and how many can be had.
#[utoipa::path(
    get, path = "/v1/skus/{sku_id}", tag = "catalogue", params(("sku_id" = String, Path)),
    responses((status = 200, body = SkuAnswer), (status = 404, body = Problem))
)]
pub(crate) async fn sku(axum::extract::State(shop): State, Id(sku_id): Id<SkuId>) -> Answer<Json<SkuAnswer>> {
    let found = products::find(&shop.pool, &shop.engine, &Which::Sku(sku_id)).await?;
    let product = found.into_iter().next().ok_or_else(|| Problem::not_found("SKU"))?;
    let (product_id, product_slug, product_name) = (product.product_id.to_string(), product.slug, product.name);
    let sku = product.skus.into_iter().find(|sku| sku.sku_id == sku_id).ok_or_else(|| Problem::not_found("SKU"))?;
    Ok(Json(SkuAnswer {
        sku_id,
        code: sku.code,
        product_id,
        product_slug,
        product_name,
        price: sku.price,
        prices: sku.prices,
        available: sku.available,
        sale: sku.sale,
    }))
}
