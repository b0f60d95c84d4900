//! Divides an amount among demands that may exceed it.

/// A demand: the amount wanted, and the least amount that is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// The least amount that is of use.
    pub least: u64,
    /// The amount wanted.
    pub wanted: u64,
}

impl Want {
    /// A demand that only its full amount can meet.
    pub fn fixed(amount: u64) -> Want {
        Want { least: amount, wanted: amount }
    }
}

/// Gives every demand its least amount, and divides the rest in proportion to what each wants
/// beyond that. `None` if `available` is less than the sum of the least amounts.
pub(super) fn fit(available: u64, wants: &[Want]) -> Option<Vec<u64>> {
    let least: u64 = wants.iter().map(|want| want.least.min(want.wanted)).sum();
    let left = available.checked_sub(least)?;
    let beyond: u64 = wants.iter().map(|want| want.wanted.saturating_sub(want.least)).sum();
    let part = |want: &Want| {
        let more = want.wanted.saturating_sub(want.least);
        match left >= beyond {
            true => more,
            false => (u128::from(more) * u128::from(left) / u128::from(beyond)) as u64,
        }
    };
    Some(wants.iter().map(|want| want.least.min(want.wanted) + part(want)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_amount_that_suffices_meets_every_demand() {
        let wants = [Want { least: 1, wanted: 10 }, Want::fixed(5)];
        assert_eq!(fit(15, &wants), Some(vec![10, 5]));
        assert_eq!(fit(1_000, &wants), Some(vec![10, 5]));
    }

    #[test]
    fn a_shortage_is_shared_in_proportion_to_the_wishes_beyond_the_least() {
        let wants = [Want { least: 10, wanted: 110 }, Want { least: 10, wanted: 30 }, Want::fixed(5)];
        assert_eq!(fit(25, &wants), Some(vec![10, 10, 5]));
        assert_eq!(fit(85, &wants), Some(vec![60, 20, 5]));
        assert_eq!(fit(24, &wants), None);
    }

    proptest! {
        #[test]
        fn every_demand_gets_between_its_least_and_its_wish_and_the_sum_fits(
            wants in prop::collection::vec((0u64..1 << 40, 0u64..1 << 40), 0..20),
            available in 0u64..1 << 44,
        ) {
            let wants: Vec<Want> =
                wants.into_iter().map(|(least, more)| Want { least, wanted: least + more }).collect();
            let least: u64 = wants.iter().map(|want| want.least).sum();
            match fit(available, &wants) {
                None => prop_assert!(available < least),
                Some(given) => {
                    prop_assert!(given.iter().sum::<u64>() <= available);
                    for (given, want) in given.iter().zip(&wants) {
                        prop_assert!((want.least..=want.wanted).contains(given));
                    }
                }
            }
        }
    }
}
