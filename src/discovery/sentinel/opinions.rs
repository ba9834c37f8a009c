//! What the Sentinels say: who the master is, and who else is a Sentinel. Pure.
//!
//! Each change of the master has an epoch, which only grows: where Sentinels differ, the highest is the newest word, and
//! whoever tells less has yet to hear of it. *Invariant:* a configured Sentinel is asked for ever; another for as long as
//! it answers, or anybody who answers tells of it. Not here: whether a server knows itself to be the master (`role`).

use crate::net::Address;

/// What one Sentinel says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Word {
    /// The master; `None`: it names none.
    pub master: Option<Address>,
    /// The epoch in which that became the master.
    pub epoch: u64,
    /// The Sentinel's own id; empty if it does not tell.
    pub id: String,
    /// The other Sentinels that it knows, with their ids.
    pub others: Vec<(Address, String)>,
}

/// What all of them say.
#[derive(Debug)]
pub struct Opinions {
    seats: Vec<Seat>,
}

/// One Sentinel.
#[derive(Debug)]
struct Seat {
    address: Address,
    configured: bool,
    /// What it said last; `None`: it does not answer.
    word: Option<Word>,
}

// === impl Opinions ===

impl Opinions {
    /// Of these nothing has been heard yet.
    pub fn new(configured: &[Address]) -> Opinions {
        let mut opinions = Opinions { seats: Vec::new() };
        for address in configured {
            opinions.add(address, true);
        }
        opinions
    }

    fn add(&mut self, address: &Address, configured: bool) {
        if self.seats.iter().all(|seat| seat.address != *address) {
            self.seats.push(Seat { address: address.clone(), configured, word: None });
        }
    }

    /// Who is to be asked.
    pub fn addresses(&self) -> Vec<Address> {
        self.seats.iter().map(|seat| seat.address.clone()).collect()
    }

    /// A Sentinel has answered, or has not.
    pub fn heard(&mut self, from: &Address, word: Option<Word>) {
        if let Some(seat) = self.seats.iter_mut().find(|seat| seat.address == *from) {
            seat.word = word;
        }
        self.refresh();
    }

    /// How many answer.
    pub fn answering(&self) -> usize {
        self.words().count()
    }

    /// The newest epoch in which this is said to be the master.
    pub fn epoch_of(&self, master: &Address) -> Option<u64> {
        self.words().filter(|word| word.master.as_ref() == Some(master)).map(|word| word.epoch).max()
    }

    /// Who may be the master now, the newest word first: other than the present one, and newer.
    pub fn candidates(&self, present: Option<(&Address, u64)>) -> Vec<(Address, u64)> {
        let mut found: Vec<(Address, u64)> = Vec::new();
        for master in self.words().filter_map(|word| word.master.as_ref()) {
            let epoch = self.epoch_of(master).unwrap_or_default();
            let is_news = present.is_none_or(|(address, since)| master != address && epoch > since);
            if is_news && found.iter().all(|(address, _)| address != master) {
                found.push((master.clone(), epoch));
            }
        }
        found.sort_by_key(|(_, epoch)| std::cmp::Reverse(*epoch));
        found
    }

    fn words(&self) -> impl Iterator<Item = &Word> {
        self.seats.iter().filter_map(|seat| seat.word.as_ref())
    }

    /// Takes in who is told of, and lets go of who is not any more. While nobody answers all stay.
    fn refresh(&mut self) {
        if self.answering() == 0 {
            return;
        }
        let told: Vec<(Address, String)> = self.words().flat_map(|word| word.others.iter().cloned()).collect();
        let at = |id: &str, elsewhere: &Address| {
            let is = |seat: &Seat| seat.address != *elsewhere && seat.word.as_ref().is_some_and(|word| word.id == id);
            !id.is_empty() && self.seats.iter().any(|seat| seat.configured && is(seat))
        };
        // One that is asked already by the name it is configured with is not asked twice.
        let told: Vec<Address> =
            told.into_iter().filter(|(address, id)| !at(id, address)).map(|(address, _)| address).collect();
        self.seats.retain(|seat| seat.configured || seat.word.is_some() || told.contains(&seat.address));
        told.iter().for_each(|address| self.add(address, false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address::Tcp { host: "10.0.0.1".into(), port }
    }

    fn word(master: u16, epoch: u64) -> Option<Word> {
        Some(Word { master: Some(at(master)), epoch, ..Word::default() })
    }

    fn told(id: &str, others: &[(u16, &str)]) -> Option<Word> {
        let others = others.iter().map(|&(port, id)| (at(port), id.into())).collect();
        Some(Word { id: id.into(), others, ..Word::default() })
    }

    #[test]
    fn the_newest_word_counts_and_an_older_one_changes_nothing() {
        let mut opinions = Opinions::new(&[at(1), at(2), at(3)]);
        assert_eq!(opinions.candidates(None), []);
        opinions.heard(&at(1), word(71, 4));
        assert_eq!(opinions.candidates(None), [(at(71), 4)]);
        assert_eq!(opinions.candidates(Some((&at(71), 4))), []);
        opinions.heard(&at(2), word(72, 5));
        opinions.heard(&at(3), word(71, 4));
        assert_eq!(opinions.candidates(None), [(at(72), 5), (at(71), 4)]);
        assert_eq!(opinions.candidates(Some((&at(71), 4))), [(at(72), 5)]);
        // Two have yet to hear of it: nothing goes back.
        assert_eq!(opinions.candidates(Some((&at(72), 5))), []);
        opinions.heard(&at(2), None);
        assert_eq!((opinions.answering(), opinions.epoch_of(&at(72))), (2, None));
        assert_eq!(opinions.candidates(Some((&at(72), 5))), []);
        assert_eq!(opinions.candidates(Some((&at(72), 0))), [(at(71), 4)]);
    }

    #[test]
    fn one_that_names_nobody_names_no_candidate() {
        let mut opinions = Opinions::new(&[at(1)]);
        opinions.heard(&at(1), Some(Word { epoch: 9, ..Word::default() }));
        assert_eq!((opinions.candidates(None), opinions.answering()), (vec![], 1));
    }

    #[test]
    fn sentinels_come_and_go_as_they_are_told_of() {
        let mut opinions = Opinions::new(&[at(1)]);
        opinions.heard(&at(1), told("a", &[(2, "b"), (3, "c")]));
        assert_eq!(opinions.addresses(), [at(1), at(2), at(3)]);
        opinions.heard(&at(2), told("b", &[(1, "a"), (3, "c")]));
        // One that has moved: gone when nobody tells of its old place any more.
        opinions.heard(&at(1), told("a", &[(2, "b"), (4, "c")]));
        assert_eq!(opinions.addresses(), [at(1), at(2), at(3), at(4)]);
        opinions.heard(&at(2), told("b", &[(1, "a"), (4, "c")]));
        assert_eq!(opinions.addresses(), [at(1), at(2), at(4)]);
        // Who answers stays though nobody else does.
        opinions.heard(&at(1), None);
        assert_eq!(opinions.addresses(), [at(1), at(2), at(4)]);
    }

    #[test]
    fn a_sentinel_under_two_names_is_asked_once() {
        let name = Address::Tcp { host: "sentinel.example".into(), port: 1 };
        let mut opinions = Opinions::new(std::slice::from_ref(&name));
        opinions.heard(&name, told("a", &[(2, "b")]));
        opinions.heard(&at(2), told("b", &[(1, "a")]));
        assert_eq!(opinions.addresses(), [name, at(2)]);
    }
}
