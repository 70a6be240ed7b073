//! What Souk writes to PayPal.

use serde::Serialize;
use serde_json::value::RawValue;
use souk_actors::{
    domain::{Address, Intent, Money, RefundId},
    ports::{CreatePayment, ProviderError},
};

use super::money::Amount;

/// The body of `POST /v2/checkout/orders`.
#[derive(Serialize)]
pub(super) struct CreateOrder<'a> {
    intent: &'static str,
    purchase_units: [UnitRequest<'a>; 1],
    payment_source: Source<'a>,
}

#[derive(Serialize)]
struct UnitRequest<'a> {
    custom_id: String,
    invoice_id: &'a str,
    amount: Amount,
    shipping: Shipping<'a>,
}

#[derive(Serialize)]
struct Shipping<'a> {
    name: FullName<'a>,
    address: PostalAddress<'a>,
}

#[derive(Serialize)]
struct FullName<'a> {
    full_name: &'a str,
}

#[derive(Serialize)]
struct PostalAddress<'a> {
    address_line_1: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address_line_2: Option<&'a str>,
    /// The town.
    admin_area_2: &'a str,
    /// The state or province.
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_area_1: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    postal_code: Option<&'a str>,
    country_code: &'a str,
}

#[derive(Serialize)]
struct Source<'a> {
    paypal: Wallet<'a>,
}

#[derive(Serialize)]
struct Wallet<'a> {
    experience_context: Experience<'a>,
}

#[derive(Serialize)]
struct Experience<'a> {
    brand_name: &'a str,
    /// No e-check that clears in a week.
    payment_method_preference: &'static str,
    /// The goods go where the order says: an address changed at PayPal would change freight and tax.
    shipping_preference: &'static str,
    /// The buyer's last click is at PayPal.
    user_action: &'static str,
    return_url: &'a str,
    cancel_url: &'a str,
}

impl<'a> CreateOrder<'a> {
    /// The total goes without a breakdown: PayPal would check the sums of lines, discounts and taxes, each rounded its way.
    pub(super) fn new(wish: &'a CreatePayment, brand_name: &'a str) -> Result<Self, ProviderError> {
        let unit = UnitRequest {
            custom_id: wish.payment_id.to_string(),
            invoice_id: &wish.reference,
            amount: Amount::exact(wish.total)?,
            shipping: Shipping::from(&wish.ship_to),
        };
        let experience_context = Experience {
            brand_name,
            payment_method_preference: "IMMEDIATE_PAYMENT_REQUIRED",
            shipping_preference: "SET_PROVIDED_ADDRESS",
            user_action: "PAY_NOW",
            return_url: &wish.return_url,
            cancel_url: &wish.cancel_url,
        };
        Ok(Self {
            intent: match wish.intent {
                Intent::Capture => "CAPTURE",
                Intent::Authorise => "AUTHORIZE",
            },
            purchase_units: [unit],
            payment_source: Source { paypal: Wallet { experience_context } },
        })
    }
}

impl<'a> From<&'a Address> for Shipping<'a> {
    fn from(address: &'a Address) -> Self {
        let given = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        Self {
            name: FullName { full_name: &address.name },
            address: PostalAddress {
                address_line_1: &address.line1,
                address_line_2: address.line2.as_deref(),
                admin_area_2: &address.city,
                admin_area_1: address.region.as_deref(),
                postal_code: given(&address.postal_code),
                country_code: &address.country,
            },
        }
    }
}

/// The body of `POST /v2/payments/captures/{id}/refund`.
#[derive(Serialize)]
pub(super) struct CreateRefund {
    amount: Amount,
    /// Without it the refund would be called what its capture is.
    custom_id: String,
}

impl CreateRefund {
    pub(super) fn new(refund_id: RefundId, amount: Money) -> Result<Self, ProviderError> {
        Ok(Self { amount: Amount::exact(amount)?, custom_id: refund_id.to_string() })
    }
}

/// The body of `POST /v2/payments/authorizations/{id}/capture`.
#[derive(Serialize)]
pub(super) struct CaptureAuthorised {
    amount: Amount,
    final_capture: bool,
}

impl CaptureAuthorised {
    pub(super) fn new(amount: Money, last: bool) -> Result<Self, ProviderError> {
        Ok(Self { amount: Amount::exact(amount)?, final_capture: last })
    }
}

/// The body of `POST /v1/notifications/verify-webhook-signature`.
#[derive(Serialize)]
pub(super) struct VerifySignature<'a> {
    pub(super) auth_algo: &'static str,
    pub(super) cert_url: &'a str,
    pub(super) transmission_id: &'a str,
    pub(super) transmission_sig: &'a str,
    pub(super) transmission_time: &'a str,
    pub(super) webhook_id: &'a str,
    /// Byte for byte as it was delivered: written anew, `1.0` becomes `1`, and PayPal does not know its own event.
    pub(super) webhook_event: &'a RawValue,
}

/// The body of a `POST` that has nothing to say: `{}`.
#[derive(Serialize)]
pub(super) struct Nothing {}

#[cfg(test)]
mod tests {
    use super::*;
    use souk_actors::domain::{PaymentId, TaskId};

    #[test]
    fn an_order_is_announced_as_paypal_wants_it() {
        let mut wish = CreatePayment {
            intent: Intent::Capture,
            request_id: TaskId(1),
            payment_id: PaymentId(2),
            reference: "order_1".to_owned(),
            total: Money::new(1200, "JPY".parse().expect("known")),
            ship_to: Address {
                name: "Zoë".to_owned(),
                line1: "1 Way".to_owned(),
                line2: None,
                city: "Kyoto".to_owned(),
                region: Some("Kyoto".to_owned()),
                postal_code: String::new(),
                country: "JP".to_owned(),
            },
            return_url: "https://shop/back".to_owned(),
            cancel_url: "https://shop/no".to_owned(),
        };
        let body = serde_json::to_value(CreateOrder::new(&wish, "Souk").expect("told")).expect("json");
        assert_eq!(
            body,
            serde_json::json!({
                "intent": "CAPTURE",
                "purchase_units": [{
                    "custom_id": PaymentId(2).to_string(),
                    "invoice_id": "order_1",
                    "amount": {"currency_code": "JPY", "value": "1200"},
                    "shipping": {
                        "name": {"full_name": "Zoë"},
                        "address": {
                            "address_line_1": "1 Way",
                            "admin_area_2": "Kyoto",
                            "admin_area_1": "Kyoto",
                            "country_code": "JP",
                        },
                    },
                }],
                "payment_source": {"paypal": {"experience_context": {
                    "brand_name": "Souk",
                    "payment_method_preference": "IMMEDIATE_PAYMENT_REQUIRED",
                    "shipping_preference": "SET_PROVIDED_ADDRESS",
                    "user_action": "PAY_NOW",
                    "return_url": "https://shop/back",
                    "cancel_url": "https://shop/no",
                }}},
            })
        );
        wish.intent = Intent::Authorise;
        let body = serde_json::to_value(CreateOrder::new(&wish, "Souk").expect("told")).expect("json");
        assert_eq!(body["intent"], "AUTHORIZE");
    }
}
