//! Words that people type, checked once at the door: what gets past here fits Postgres, mail and a label.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};

/// Why a value was refused: the field by its wire name, and what it should have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field by its name on the wire, e.g. `shipping_address.city`.
    pub field: String,
    /// What is wrong, for a person.
    pub problem: String,
}

impl Invalid {
    /// The field, and what it should have been.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// Trims, and refuses what is longer than `max` characters or holds a control character.
///
/// NUL above all: Postgres stores none, neither in `text` nor (as `\u0000`) in `jsonb`, and would fail the whole batch.
///
/// # Errors
/// [`Invalid`] with the field's name.
pub fn clean(field: &str, text: &str, max: usize) -> Result<String, Invalid> {
    let trimmed = text.trim();
    if trimmed.chars().count() > max {
        return Err(Invalid::new(field, format!("longer than {max} characters")));
    }
    if trimmed.chars().any(char::is_control) {
        return Err(Invalid::new(field, "holds a control character"));
    }
    Ok(trimmed.to_owned())
}

/// What somebody else's program says, fit for a row and a log: no control characters, 300 characters at the most.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn required(field: &str, text: &str, max: usize) -> Result<String, Invalid> {
    let cleaned = clean(field, text, max)?;
    if cleaned.is_empty() {
        return Err(Invalid::new(field, "is missing"));
    }
    Ok(cleaned)
}

/// A mail address, trimmed and in lower case, its domain as DNS spells it: one buyer is one address however it was typed.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Email(String);

impl Email {
    /// The normalised address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An address as it is stored: it was checked when it came, by what the rules were then.
    #[must_use]
    pub fn stored(address: String) -> Self {
        Self(address)
    }
}

impl FromStr for Email {
    type Err = Invalid;
    /// The shape only (RFC 5321 lengths, one `@`, a dot in the domain): that it exists is proved by a mail that arrives.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = || Invalid::new("email", "is not a mail address");
        let typed = clean("email", &text.to_lowercase(), 254)?; // some letters are longer in lower case
        let (local, domain) = typed.split_once('@').ok_or_else(wrong)?;
        // its domain has many spellings, one of them in DNS: that one is looked at
        let domain = idna::domain_to_ascii(domain).map_err(|_| wrong())?;
        let address = clean("email", &format!("{local}@{domain}"), 254)?;
        let dotted = domain.split('.').count() > 1 && domain.split('.').all(|label| !label.is_empty());
        let plain = !address.contains(|c: char| c.is_whitespace() || "<>()[],;:\\\"".contains(c));
        if local.is_empty() || local.len() > 64 || !dotted || !plain || domain.contains('@') {
            return Err(wrong());
        }
        Ok(Self(address))
    }
}

impl fmt::Debug for Email {
    /// A buyer's address is nobody's business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)")
    }
}

/// Where a parcel goes. Checked by [`Address::checked`], kept as the order's snapshot.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Who receives it.
    pub name: String,
    /// Street and number.
    pub line1: String,
    /// Flat, floor, company.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line2: Option<String>,
    /// Town.
    pub city: String,
    /// State or province, where the country has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Post code, empty where the country has none.
    #[serde(default)]
    pub postal_code: String,
    /// ISO 3166-1 alpha-2, upper case.
    pub country: String,
}

impl Address {
    /// The same address, trimmed and within what carriers and providers take.
    ///
    /// # Errors
    /// [`Invalid`] with the field's path.
    pub fn checked(&self) -> Result<Self, Invalid> {
        let optional = |field: &str, text: &Option<String>| -> Result<Option<String>, Invalid> {
            let cleaned = text.as_deref().map(|text| clean(field, text, 120)).transpose()?;
            Ok(cleaned.filter(|text| !text.is_empty()))
        };
        let country = required("shipping_address.country", &self.country, 2)?;
        if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_uppercase()) {
            return Err(Invalid::new("shipping_address.country", "is not a two-letter country code such as US"));
        }
        Ok(Self {
            name: required("shipping_address.name", &self.name, 120)?,
            line1: required("shipping_address.line1", &self.line1, 200)?,
            line2: optional("shipping_address.line2", &self.line2)?,
            city: required("shipping_address.city", &self.city, 120)?,
            region: optional("shipping_address.region", &self.region)?,
            postal_code: clean("shipping_address.postal_code", &self.postal_code, 20)?,
            country,
        })
    }
}

impl fmt::Debug for Address {
    /// As with [`Email`]: the country is all a log needs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address(…, {})", self.country)
    }
}

/// How many units of a SKU: 1 to a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Quantity(i64);

impl Quantity {
    /// The most that one line can ask for.
    pub const MAX: i64 = 1_000_000;

    /// # Errors
    /// [`Invalid`] outside 1 to [`Quantity::MAX`].
    pub fn new(units: i64) -> Result<Self, Invalid> {
        if (1..=Self::MAX).contains(&units) {
            return Ok(Self(units));
        }
        Err(Invalid::new("quantity", format!("is a whole number from 1 to {}", Self::MAX)))
    }

    /// The number of units.
    #[must_use]
    pub fn units(self) -> i64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(i64::deserialize(deserializer)?).map_err(|invalid| serde::de::Error::custom(invalid.problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_address_has_its_shape() {
        for good in ["a@b.c", " Ann.Lee+x@Example.COM "] {
            assert!(good.parse::<Email>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "a@b",
            "@b.c",
            "a@.c",
            "a@b.",
            "a b@c.d",
            "a@b@c.d",
            "a@b.c\0",
            "<a@b.c>",
            "a@b.c\r\nBcc: x@y.z",
            "a@b.c＠d.e",
            "a@b，c.d",
            "a@b¨c.d",
            "a@b.c。",
            "a@\u{ad}.c",
            "a@xn--.c",
        ] {
            assert!(bad.parse::<Email>().is_err(), "{bad:?}");
        }
        for typed in
            ["ann@bücher.example", "ann@BÜCHER.example", "ann@bu\u{308}cher.example", "ann@xn--bcher-kva.example"]
        {
            assert_eq!(typed.parse::<Email>().expect("an address").as_str(), "ann@xn--bcher-kva.example", "{typed}");
        }
        assert_eq!("ann@ｇmail。com".parse::<Email>().expect("an address").as_str(), "ann@gmail.com");
        let longer_in_lower_case = format!("a@{}.co", "İ".repeat(150));
        assert!(longer_in_lower_case.parse::<Email>().is_err());
    }

    #[test]
    fn nothing_with_nul_reaches_postgres() {
        assert!(clean("name", "a\0b", 10).is_err());
        assert!(clean("name", "a\u{7}b", 10).is_err());
        assert_eq!(clean("name", " Zoë 東京 ", 10).expect("clean"), "Zoë 東京");
    }
}
