//! Another body under an old signature. Only the CRC-32 of a body is signed, and a CRC is linear: whoever has seen one
//! valid delivery can write a different body with the same CRC. A client that believes bodies must fail such a test.

use serde_json::{Value, json};

/// How many places at the end of a forged body are free to be a space or a tab. 32 equations need a few more unknowns.
const PLACES: usize = 64;

/// The body with more money in it, and whatever CRC that gives.
pub(super) fn tampered(body: &str) -> String {
    let mut event: Value = serde_json::from_str(body).expect("the sandbox wrote it");
    for amount in ["/resource/amount/value", "/resource/purchase_units/0/amount/value"] {
        if let Some(value) = event.pointer_mut(amount) {
            *value = json!("999.00");
        }
    }
    event["summary"] = json!("Payment completed for 999.00");
    event.to_string()
}

/// The same with white space after it that brings back the CRC of the original.
pub(super) fn same_crc(original: &str, forged: &str) -> String {
    let mut body = forged.as_bytes().to_vec();
    let start = body.len();
    body.resize(start + PLACES, b' ');
    let blank = crc32fast::hash(&body);
    let flips: Vec<u32> = (start..start + PLACES).map(|place| blank ^ with_tab(&mut body, place)).collect();
    let wanted = blank ^ crc32fast::hash(original.as_bytes());
    let chosen = solve(&flips, wanted);
    for place in (0..PLACES).filter(|place| chosen >> place & 1 == 1) {
        body[start + place] = b'\t';
    }
    String::from_utf8(body).expect("only spaces and tabs were added")
}

fn with_tab(body: &mut [u8], place: usize) -> u32 {
    body[place] = b'\t';
    let crc = crc32fast::hash(body);
    body[place] = b' ';
    crc
}

/// Which of the flips, taken together by exclusive or, give `wanted`: Gauss over single bits.
fn solve(flips: &[u32], wanted: u32) -> u64 {
    let mut basis = [(0_u32, 0_u64); 32];
    for (place, flip) in flips.iter().enumerate() {
        let (rest, used) = reduce(&basis, *flip, 1 << place);
        if rest != 0 {
            basis[rest.ilog2() as usize] = (rest, used);
        }
    }
    let (rest, used) = reduce(&basis, wanted, 0);
    debug_assert_eq!(rest, 0, "64 places span all CRCs");
    used
}

fn reduce(basis: &[(u32, u64); 32], mut rest: u32, mut used: u64) -> (u32, u64) {
    for (vector, made_of) in basis.iter().rev() {
        if *vector != 0 && rest >> vector.ilog2() & 1 == 1 {
            rest ^= vector;
            used ^= made_of;
        }
    }
    (rest, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_body_has_the_crc_of_the_original() {
        let original = r#"{"summary":"x","resource":{"amount":{"value":"1.00"}}}"#;
        let tampered = tampered(original);
        assert_ne!(crc32fast::hash(tampered.as_bytes()), crc32fast::hash(original.as_bytes()));
        let forged = same_crc(original, &tampered);
        assert_eq!(crc32fast::hash(forged.as_bytes()), crc32fast::hash(original.as_bytes()));
        let forged: Value = serde_json::from_str(&forged).expect("JSON still");
        assert_eq!(forged["resource"]["amount"]["value"], "999.00");
    }
}
