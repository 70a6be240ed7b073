//! What carriers ask. The same parcel over the same way costs the same every time.

/// A service of a carrier.
pub(super) struct Service {
    pub(super) token: &'static str,
    pub(super) name: &'static str,
    /// The carrier, as tracking knows it and as people do.
    pub(super) carrier: &'static str,
    pub(super) provider: &'static str,
    pub(super) carrier_account: &'static str,
    /// Goes abroad, or does not.
    abroad: bool,
    /// US cents for any parcel, and for every 100 g begun.
    base: i64,
    per_100_g: i64,
    pub(super) days: i64,
    pub(super) terms: &'static str,
}

const USPS: (&str, &str, &str) = ("usps", "USPS", "b741b99f95e841639b54272834bc478c");
const UPS: (&str, &str, &str) = ("ups", "UPS", "f0e9a3d9a1a64a1b8f2f8d8e5f3b7c21");
const FEDEX: (&str, &str, &str) = ("fedex", "FedEx", "3fb3e0a6d5b24c0e8d4f4f6c2a9b1e70");

static SERVICES: [Service; 8] = [
    service(USPS, "usps_ground_advantage", "Ground Advantage", false, (540, 18), 4),
    service(USPS, "usps_priority", "Priority Mail", false, (895, 32), 2),
    service(UPS, "ups_ground", "Ground", false, (1120, 21), 3),
    service(FEDEX, "fedex_2_day", "FedEx 2Day", false, (1890, 45), 2),
    service(
        USPS,
        "usps_first_class_package_international_service",
        "First Class Package International",
        true,
        (1480, 110),
        12,
    ),
    service(USPS, "usps_priority_mail_international", "Priority Mail International", true, (3650, 140), 8),
    service(UPS, "ups_saver", "Worldwide Saver", true, (5890, 160), 4),
    service(FEDEX, "fedex_international_economy", "International Economy", true, (4920, 150), 6),
];

const fn service(
    (carrier, provider, carrier_account): (&'static str, &'static str, &'static str),
    token: &'static str,
    name: &'static str,
    abroad: bool,
    (base, per_100_g): (i64, i64),
    days: i64,
) -> Service {
    let terms = "Delivery in the stated number of business days, as a rule.";
    Service { token, name, carrier, provider, carrier_account, abroad, base, per_100_g, days, terms }
}

impl Service {
    pub(super) fn find(token: &str) -> Option<&'static Self> {
        SERVICES.iter().find(|service| service.token == token)
    }

    /// All that go abroad, or all that do not.
    pub(super) fn all(abroad: bool) -> impl Iterator<Item = &'static Self> {
        SERVICES.iter().filter(move |service| service.abroad == abroad)
    }

    pub(super) fn goes_abroad(&self) -> bool {
        self.abroad
    }

    /// US cents for parcels of these weights.
    pub(super) fn price(&self, grams: &[i64]) -> i64 {
        grams.iter().map(|grams| self.base + self.per_100_g * ((grams + 99) / 100)).sum()
    }
}

/// Whole grams, rounded up.
pub(super) fn grams(weight: &str, unit: &str) -> i64 {
    let in_grams = match unit {
        "kg" => 1000.0,
        "lb" => 453.592_37,
        "oz" => 28.349_523,
        _ => 1.0,
    };
    let grams = weight.parse::<f64>().unwrap_or(0.0) * in_grams;
    // No parcel is heavier; a cast of more would only be as large as it gets.
    #[expect(clippy::cast_possible_truncation, reason = "a ceiling, far below the limit")]
    let whole = grams.ceil().min(1e9) as i64;
    whole
}

/// Code, decimals, units of it for a thousand dollars, and where it is used.
const CURRENCIES: [(&str, u32, i64, &[&str]); 8] = [
    ("USD", 2, 1000, &["US", "PR"]),
    ("EUR", 2, 920, &["AT", "BE", "DE", "ES", "FI", "FR", "IE", "IT", "LU", "NL", "PT"]),
    ("GBP", 2, 790, &["GB"]),
    ("CAD", 2, 1370, &["CA"]),
    ("AUD", 2, 1520, &["AU"]),
    ("CHF", 2, 880, &["CH", "LI"]),
    ("SEK", 2, 10_500, &["SE"]),
    ("JPY", 0, 150_000, &["JP"]),
];

/// The currency of a country; dollars where the table has none.
pub(super) fn currency_of(country: &str) -> &'static str {
    CURRENCIES.iter().find(|(.., countries)| countries.contains(&country)).map_or("USD", |(code, ..)| code)
}

pub(super) fn is_currency(code: &str) -> bool {
    CURRENCIES.iter().any(|(known, ..)| *known == code)
}

/// US cents as an amount of this currency, in its decimals.
pub(super) fn amount(usd_cents: i64, code: &str) -> String {
    let (_, decimals, per_thousand, _) = CURRENCIES.iter().find(|(known, ..)| *known == code).unwrap_or(&CURRENCIES[0]);
    if *decimals == 0 {
        return ((usd_cents * per_thousand + 99_999) / 100_000).to_string();
    }
    let cents = (usd_cents * per_thousand + 999) / 1000;
    format!("{}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_decimals_of_their_currency() {
        assert_eq!((amount(1234, "USD"), amount(1234, "EUR")), ("12.34".to_owned(), "11.36".to_owned()));
        assert_eq!(amount(1234, "JPY"), "1851");
    }

    #[test]
    fn a_begun_hundred_grams_is_paid_whole() {
        let ground = Service::find("usps_ground_advantage").expect("it is on the list");
        assert_eq!((ground.price(&[100]), ground.price(&[101])), (558, 576));
        assert_eq!((grams("1", "lb"), grams("0.5", "kg")), (454, 500));
    }
}
