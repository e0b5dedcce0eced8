//! Which requests are a canary's, and the two lanes of an app. Plain data.
//!
//! An app has one line with two lanes in it. Without a canary everything is in the main lane.

/// Which of an app's dynos a request may have, and which requests a dyno takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The release that serves.
    #[default]
    Main,
    /// The release that is tried out: its dynos take the requests of this lane and no others. While it has no dyno
    /// that serves, boots or is in quarantine, its requests are served by the main lane's dynos, in order of first
    /// arrival together with that lane's.
    Canary,
}

/// Which requests are the canary's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Canary {
    /// So many requests in a hundred: of any hundred in a row exactly so many, spread evenly. 100 and more: all.
    Share(u32),
    /// Those with a header of that name and value.
    Header {
        /// The header's name, in upper or lower case.
        name: String,
        /// Its value, byte for byte.
        value: String,
    },
    /// Those with a cookie of that name and value.
    Cookie {
        /// The cookie's name, byte for byte.
        name: String,
        /// Its value, byte for byte.
        value: String,
    },
}

impl Lane {
    /// Both, in the order in which they are served.
    pub const ALL: [Self; 2] = [Self::Main, Self::Canary];

    /// The lane as a word, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Canary => "canary",
        }
    }
}

/// Whether the `nth` request is one of `share` in a hundred.
pub(crate) fn is_in_share(share: u32, nth: u64) -> bool {
    let (share, nth) = (u64::from(share.min(100)), nth % 100);
    nth * share / 100 != (nth + 1) * share / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_any_hundred_in_a_row_the_share_is_exact_and_spread() {
        for share in 0..=100 {
            let picks: Vec<_> = (0..300).map(|nth| is_in_share(share, nth)).collect();
            for window in picks.windows(100) {
                assert_eq!(window.iter().filter(|picked| **picked).count(), share as usize);
            }
            if share > 0 {
                let gap = 100_u32.div_ceil(share) as usize;
                assert!(
                    picks.windows(gap).all(|some| some.contains(&true)),
                    "{share} in a hundred is spread"
                );
            }
        }
        assert!(is_in_share(u32::MAX, u64::MAX), "all and more is all");
    }
}
