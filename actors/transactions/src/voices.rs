//! What several endpoints said of the same, held against each other. Pure.
//!
//! Invariant: where several answered, what one of them alone says counts for nothing.

use std::fmt::Display;

use crate::queue::Simulated;

/// What more than half of those say that answered, and how many do. One that is alone is taken at its word here.
///
/// # Errors
/// Says who says what.
pub fn majority<T: Copy + PartialEq + Display>(told: &[(String, T)]) -> Result<(T, usize), String> {
    let says = |number: T| told.iter().filter(|(_, other)| *other == number).count();
    let most = told.iter().map(|(_, number)| (*number, says(*number))).max_by_key(|(_, says)| *says);
    match most {
        Some((number, says)) if says * 2 > told.len() => Ok((number, says)),
        Some(_) => {
            let each = told.iter().map(|(endpoint, number)| format!("{endpoint} says {number}"));
            Err(each.collect::<Vec<_>>().join(", "))
        }
        None => Err("no endpoint says anything".to_owned()),
    }
}

/// The middle one of what endpoints say, of two the lower: where there are several, none of them alone makes it higher than
/// what another one says. None where nobody says anything.
pub fn middle<T: Copy + Ord>(told: impl IntoIterator<Item = T>) -> Option<T> {
    let mut told: Vec<T> = told.into_iter().collect();
    told.sort_unstable();
    told.get(told.len().checked_sub(1)? / 2).copied()
}

/// What a call comes to that reverts at one endpoint, by what each says of it; `connected`: those that could be asked.
pub fn of_revert(first: Simulated, others: &[Simulated], connected: usize) -> Simulated {
    let (message, data) = match first {
        Simulated::Reverts { message, data, .. } => (message, data),
        other => return other,
    };
    let reverts = others.iter().filter(|other| matches!(other, Simulated::Reverts { .. })).count();
    let succeeds = others.iter().any(|other| matches!(other, Simulated::Succeeds { .. }));
    Simulated::Reverts { message, data, agreed: !succeeds && (reverts >= 2 || connected <= 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(numbers: &[u64]) -> Vec<(String, u64)> {
        ["a", "b", "c"].iter().zip(numbers).map(|(name, number)| ((*name).to_owned(), *number)).collect()
    }

    #[test]
    fn what_one_of_several_alone_says_counts_for_nothing() {
        assert_eq!(majority(&told(&[5, 900, 5])), Ok((5, 2)));
        assert_eq!(majority(&told(&[5, 5, 5])), Ok((5, 3)));
        assert_eq!(majority(&told(&[5, 5])), Ok((5, 2)));
        assert_eq!(majority(&told(&[900])), Ok((900, 1)));
        assert_eq!(majority(&told(&[5, 900])), Err("a says 5, b says 900".to_owned()));
        assert!(majority(&told(&[5, 6, 7])).is_err() && majority::<u64>(&[]).is_err());
    }

    #[test]
    fn no_endpoint_alone_makes_a_price_higher() {
        assert_eq!(middle([9, 2]), Some(2));
        assert_eq!(middle([900, 2, 3]), Some(3));
        assert_eq!(middle([7]), Some(7));
        assert_eq!(middle::<u8>([]), None);
    }

    #[test]
    fn a_revert_wants_a_second_endpoint_where_there_is_one() {
        let reverts = || Simulated::Reverts { message: "no".to_owned(), data: None, agreed: false };
        let agreed = |others: &[Simulated], connected| {
            let Simulated::Reverts { agreed, .. } = of_revert(reverts(), others, connected) else {
                panic!("no revert")
            };
            agreed
        };
        let (succeeds, unknown) = (|| Simulated::Succeeds { gas: 1 }, || Simulated::Unknown("behind".to_owned()));
        assert!(agreed(&[reverts(), reverts()], 2) && agreed(&[reverts(), reverts(), unknown()], 3));
        assert!(agreed(&[reverts()], 1) && agreed(&[], 1), "there is nobody else");
        assert!(!agreed(&[reverts(), unknown()], 2) && !agreed(&[reverts(), succeeds()], 2));
        assert!(!agreed(&[reverts(), reverts(), succeeds()], 3));
    }
}
