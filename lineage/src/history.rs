//! What several sources say about one thing over time: who said what from when until when.
//!
//! A claim is one source scope's; its versions do not overlap. What is said again is not stored again: the version only remembers when it
//! was seen last. Late facts fill gaps and never override newer ones, so that applying an event twice, or events in another order,
//! leads to the same graph wherever they do not contradict each other at one time.

use smallvec::SmallVec;

use crate::model::Status;

/// Index of a source scope.
pub type SourceId = u32;

/// Something is expired when it has not been seen for so many times its TTL.
pub const EXPIRY_FACTOR: i64 = 3;

/// Versions of one claim that are kept; the oldest ones are joined beyond that.
pub const MAX_VERSIONS: usize = 256;

/// The end of what has no end yet.
pub const OPEN_MS: i64 = i64::MAX;

/// What is claimed.
pub trait Body: Clone {
    /// Whether the other one says the same, apart from noise.
    fn says_the_same(&self, other: &Self) -> bool;
}

/// A time in which a source said one thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Version<B> {
    /// First millisecond in which it is so.
    pub from_ms: i64,
    /// First millisecond in which it is not so any more; [`OPEN_MS`] if nobody has withdrawn it.
    pub to_ms: i64,
    /// When it was said last.
    pub seen_ms: i64,
    /// It is live for so long after it was said; 0 if it does not expire.
    pub ttl_ms: i64,
    /// What was said.
    pub body: B,
}

/// What one source scope says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim<B> {
    /// Whose it is.
    pub source: SourceId,
    /// Ascending by time, without overlap.
    pub versions: SmallVec<[Version<B>; 1]>,
}

/// What everybody says, in the order in which they came.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims<B>(pub SmallVec<[Claim<B>; 1]>);

impl<B> Default for Claims<B> {
    fn default() -> Self {
        Self(SmallVec::new())
    }
}

/// What a statement has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The graph is another one at some time.
    Changed {
        /// The source scope had never said anything about this before.
        first: bool,
    },
    /// It was said before and was live; it now lives longer than until the time given here.
    Seen {
        /// Until when it would have been live without this.
        live_until_ms: i64,
    },
    /// Nothing has changed.
    Nothing,
}

impl<B> Version<B> {
    /// How fresh it is at a time; `None` if the time is before or after it.
    pub fn status(&self, at_ms: i64) -> Option<Status> {
        if at_ms < self.from_ms || at_ms >= self.to_ms {
            return None;
        }
        Some(match at_ms {
            t if t < self.live_until_ms() => Status::Live,
            t if t < self.stale_until_ms() => Status::Stale,
            _ => Status::Expired,
        })
    }

    /// First millisecond in which it is stale.
    pub fn live_until_ms(&self) -> i64 {
        if self.ttl_ms == 0 { OPEN_MS } else { self.seen_ms.saturating_add(self.ttl_ms).saturating_add(1) }
    }

    /// First millisecond in which it is expired.
    pub fn stale_until_ms(&self) -> i64 {
        if self.ttl_ms == 0 { OPEN_MS } else { self.seen_ms.saturating_add(self.ttl_ms.saturating_mul(EXPIRY_FACTOR)).saturating_add(1) }
    }

    /// The first time after `at_ms` at which its status changes.
    pub fn next_change_ms(&self, at_ms: i64) -> i64 {
        let times = [self.from_ms, self.to_ms, self.live_until_ms(), self.stale_until_ms()];
        times.into_iter().filter(|t| *t > at_ms).min().unwrap_or(OPEN_MS)
    }
}

impl<B: Body> Claims<B> {
    /// Records that `source` says it at a time.
    pub fn assert(&mut self, source: SourceId, at_ms: i64, ttl_ms: i64, body: B) -> Effect {
        if let Some(claim) = self.0.iter_mut().find(|c| c.source == source) {
            return claim.assert(at_ms, ttl_ms, body);
        }
        let version = Version { from_ms: at_ms, to_ms: OPEN_MS, seen_ms: at_ms, ttl_ms, body };
        self.0.push(Claim { source, versions: SmallVec::from_iter([version]) });
        Effect::Changed { first: true }
    }

    /// Records that `source` does not say it any more from a time on. Something that it has said later stays.
    pub fn retract(&mut self, source: SourceId, at_ms: i64) -> Effect {
        self.end(source, at_ms, at_ms.saturating_add(1))
    }

    /// Records that `source`, which has said everything since `since_ms`, did not say this, and so withdraws it as of `at_ms`.
    pub fn retract_unseen(&mut self, source: SourceId, since_ms: i64, at_ms: i64) -> Effect {
        self.end(source, at_ms, since_ms)
    }

    /// Whether [`Claims::retract_unseen`] would withdraw it.
    pub fn is_unseen(&self, source: SourceId, since_ms: i64, at_ms: i64) -> bool {
        let claim = self.0.iter().find(|c| c.source == source);
        claim.and_then(|c| c.version_at(at_ms)).is_some_and(|v| v.seen_ms < since_ms)
    }

    fn end(&mut self, source: SourceId, at_ms: i64, seen_before_ms: i64) -> Effect {
        let Some(claim) = self.0.iter_mut().find(|c| c.source == source) else { return Effect::Nothing };
        let Some(i) = claim.versions.iter().position(|v| v.from_ms <= at_ms && at_ms < v.to_ms) else { return Effect::Nothing };
        let version = &mut claim.versions[i];
        if version.seen_ms >= seen_before_ms {
            return Effect::Nothing;
        }
        version.to_ms = at_ms.min(version.stale_until_ms());
        if version.to_ms <= version.from_ms {
            claim.versions.remove(i);
        }
        Effect::Changed { first: false }
    }

    /// What is in force or stale at a time.
    pub fn at(&self, at_ms: i64) -> impl Iterator<Item = (SourceId, &Version<B>, Status)> {
        self.0.iter().filter_map(move |claim| {
            let version = claim.version_at(at_ms)?;
            let status = version.status(at_ms)?;
            (status != Status::Expired).then_some((claim.source, version, status))
        })
    }

    /// What every source said last and has not withdrawn, whenever that was.
    pub fn open(&self) -> impl Iterator<Item = (SourceId, &Version<B>)> {
        self.0.iter().filter_map(|c| c.versions.last().filter(|v| v.to_ms == OPEN_MS).map(|v| (c.source, v)))
    }

    /// The first time after `at_ms` at which the status of one of them changes.
    pub fn next_change_ms(&self, at_ms: i64) -> i64 {
        let versions = self.0.iter().flat_map(|c| &c.versions);
        versions.map(|v| v.next_change_ms(at_ms)).min().unwrap_or(OPEN_MS)
    }

    /// When anybody said it first.
    pub fn first_seen_ms(&self) -> Option<i64> {
        self.0.iter().filter_map(|c| c.versions.first()).map(|v| v.from_ms).min()
    }
}

impl<B> Claim<B> {
    /// The version that covers a time.
    pub fn version_at(&self, at_ms: i64) -> Option<&Version<B>> {
        // Nearly always there is one.
        self.versions.iter().rev().find(|v| v.from_ms <= at_ms).filter(|v| at_ms < v.to_ms)
    }
}

impl<B: Body> Claim<B> {
    fn assert(&mut self, at_ms: i64, ttl_ms: i64, body: B) -> Effect {
        let changed = Effect::Changed { first: false };
        let next = self.versions.iter().position(|v| v.from_ms > at_ms).unwrap_or(self.versions.len());
        if let Some(i) = next.checked_sub(1) {
            let version = &mut self.versions[i];
            let covers = at_ms < version.to_ms && at_ms < version.stale_until_ms();
            if covers && version.body.says_the_same(&body) {
                return version.see(at_ms, ttl_ms);
            }
            if covers && at_ms < version.seen_ms {
                // It is late, and the source has said the other thing before and after.
                return Effect::Nothing;
            }
            if covers || at_ms < version.to_ms {
                let end_ms = at_ms.min(version.stale_until_ms());
                let to_ms = version.to_ms;
                version.to_ms = end_ms;
                let empty = version.from_ms >= end_ms;
                // What followed the old version follows the new one.
                let new = Version { from_ms: at_ms, to_ms: to_ms.max(at_ms + 1), seen_ms: at_ms, ttl_ms, body };
                if empty {
                    self.versions[i] = new;
                } else {
                    self.versions.insert(i + 1, new);
                }
                self.condense();
                return changed;
            }
        }
        match self.versions.get_mut(next) {
            // Only if it was not forgotten in between.
            Some(later) if later.body.says_the_same(&body) && (ttl_ms == 0 || later.from_ms - at_ms <= ttl_ms) => later.from_ms = at_ms,
            later => {
                let to_ms = later.map_or(OPEN_MS, |v| v.from_ms);
                self.versions.insert(next, Version { from_ms: at_ms, to_ms, seen_ms: at_ms, ttl_ms, body });
                self.condense();
            }
        }
        changed
    }

    /// Joins the two oldest versions if there are too many.
    fn condense(&mut self) {
        if self.versions.len() > MAX_VERSIONS {
            let oldest = self.versions.remove(0);
            self.versions[0].from_ms = oldest.from_ms;
        }
    }
}

impl<B> Version<B> {
    fn see(&mut self, at_ms: i64, ttl_ms: i64) -> Effect {
        let live_until_ms = self.live_until_ms();
        if at_ms < self.seen_ms || (at_ms, ttl_ms) == (self.seen_ms, self.ttl_ms) {
            return Effect::Nothing;
        }
        let ttl_changed = std::mem::replace(&mut self.ttl_ms, ttl_ms) != ttl_ms;
        self.seen_ms = at_ms;
        if ttl_changed || at_ms >= live_until_ms {
            return Effect::Changed { first: false };
        }
        Effect::Seen { live_until_ms }
    }
}

#[cfg(test)]
mod tests;
