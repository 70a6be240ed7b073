//! `souk seed`: the demo catalogue, through the API of a running shop.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Failure, nobody};
use crate::{app, config::Config, shop::demo};

pub(super) async fn run(config: Config) -> Result<ExitCode, Failure> {
    let token = app::staff_token(&config)?;
    let base = format!("http://{}", config.http.listen);
    let client = reqwest::Client::new();
    let answer = client.get(format!("{base}/v1/products?limit=1")).send().await;
    let sold: Value = answer.map_err(|_| nobody(&config))?.error_for_status()?.json().await?;
    if sold["products"].as_array().is_some_and(|products| !products.is_empty()) {
        println!("The shop sells something already; nothing was added.");
        return Ok(ExitCode::SUCCESS);
    }
    let catalogue = demo::catalogue();
    for product in &catalogue {
        let skus: Vec<Value> = product
            .skus
            .iter()
            .map(|sku| json!({ "code": sku.code, "price": sku.price.amount(), "on_hand": sku.on_hand }))
            .collect();
        let body = json!({ "name": product.name, "description": product.description, "currency": "USD", "skus": skus });
        let made =
            client.post(format!("{base}/v1/admin/products")).bearer_auth(token.expose()).json(&body).send().await?;
        made.error_for_status()?;
    }
    println!("{} products added.", catalogue.len());
    Ok(ExitCode::SUCCESS)
}
