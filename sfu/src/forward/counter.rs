//! Small counters of a payload or an extension across changes of their source.

/// A counter of `BITS` bits from which nothing is skipped: it only moves where streams change.
#[derive(Debug)]
pub(super) struct Counter<const BITS: u32> {
    offset: u16,
    /// Highest value given out.
    highest: Option<u16>,
}

impl<const BITS: u32> Counter<BITS> {
    const MASK: u16 = u16::MAX >> (u16::BITS - BITS);

    /// The first stream keeps its own numbers.
    pub(super) fn new<T: Into<u16>>(first: Option<T>) -> Self {
        Self { offset: 0, highest: first.map(Into::into) }
    }

    /// The next value given out follows the highest so far.
    pub(super) fn start<T: Into<u16>>(&mut self, first: Option<T>) {
        let Some(first) = first.map(Into::into) else { return };
        let next = self.highest.map_or(first, |highest| highest.wrapping_add(1));
        self.offset = next.wrapping_sub(first) & Self::MASK;
        self.highest = Some(next & Self::MASK);
    }

    pub(super) fn map<T: Into<u16> + TryFrom<u16> + Default>(&mut self, value: T) -> T {
        let out = value.into().wrapping_add(self.offset) & Self::MASK;
        let ahead = self.highest.is_none_or(|highest| {
            (1..=Self::MASK / 2).contains(&(out.wrapping_sub(highest) & Self::MASK))
        });
        if ahead {
            self.highest = Some(out);
        }
        T::try_from(out).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens to a counter of five bits, in order.
    enum Step {
        Start(Option<u8>),
        Map { value: u8, expect: u8 },
    }
    use Step::{Map, Start};

    #[test]
    fn counters_go_on_where_streams_change() {
        struct Case {
            name: &'static str,
            first: Option<u8>,
            steps: &'static [Step],
        }
        let cases = [
            Case {
                name: "the first stream keeps its own, around the wrap",
                first: Some(30),
                steps: &[
                    Map { value: 30, expect: 30 },
                    Map { value: 31, expect: 31 },
                    Map { value: 0, expect: 0 },
                ],
            },
            Case {
                name: "the next one follows the highest",
                first: Some(30),
                steps: &[
                    Map { value: 30, expect: 30 },
                    Start(Some(7)),
                    Map { value: 7, expect: 31 },
                    Map { value: 8, expect: 0 },
                    Start(Some(8)),
                    Map { value: 8, expect: 1 },
                ],
            },
            Case {
                name: "late values are not the highest",
                first: Some(10),
                steps: &[
                    Map { value: 12, expect: 12 },
                    Map { value: 11, expect: 11 },
                    Start(Some(0)),
                    Map { value: 0, expect: 13 },
                ],
            },
            Case {
                name: "gaps stay",
                first: Some(1),
                steps: &[Map { value: 1, expect: 1 }, Map { value: 5, expect: 5 }],
            },
            Case {
                name: "half way around is still ahead",
                first: Some(0),
                steps: &[
                    Map { value: 15, expect: 15 },
                    Start(Some(0)),
                    Map { value: 0, expect: 16 },
                ],
            },
            Case {
                name: "beyond that it is behind",
                first: Some(0),
                steps: &[
                    Map { value: 16, expect: 16 },
                    Start(Some(0)),
                    Map { value: 0, expect: 1 },
                ],
            },
            Case {
                name: "the first stream had none",
                first: None,
                steps: &[Start(Some(9)), Map { value: 9, expect: 9 }],
            },
            Case {
                name: "one in between has none",
                first: Some(4),
                steps: &[
                    Map { value: 4, expect: 4 },
                    Start(None),
                    Start(Some(20)),
                    Map { value: 20, expect: 5 },
                ],
            },
        ];
        for case in cases {
            let mut counter = Counter::<5>::new(case.first);
            for (index, step) in case.steps.iter().enumerate() {
                match step {
                    Start(first) => counter.start(*first),
                    Map { value, expect } => {
                        assert_eq!(counter.map(*value), *expect, "{}, step {index}", case.name);
                    }
                }
            }
        }
    }
}
