//! What the statements of all sources about one edge come to.
//!
//! What was proven counts before what was declared, and that before what was observed; but shares and lags are measured, so that
//! there observation counts first. Statements that are stale count only where no live one says anything.

use crate::history::{Claims, Version};
use crate::model::edge::{SOFT_COUPLING, STALE_CONFIDENCE};
use crate::model::{Class, EdgeBody, Evidence, EvidenceSet, Flow, Group, Status};

/// An edge as all sources together see it.
#[derive(Clone, Debug)]
pub(crate) struct Effective<'a> {
    pub status: Status,
    pub evidence: EvidenceSet,
    pub class: Class,
    /// What flows, if somebody says.
    pub flow: Option<Flow>,
    pub group: Option<&'a Group>,
    pub share: f32,
    pub coupling: f32,
    pub confidence: f32,
    pub lag_ms: Option<i64>,
}

/// Rank of a statement about classes, coupling and groups; higher counts first.
fn said(evidence: Evidence) -> u8 {
    match evidence {
        Evidence::Observed => 0,
        Evidence::Declared => 1,
        Evidence::Proven => 2,
    }
}

/// Rank of a statement about shares and lags.
fn measured(evidence: Evidence) -> u8 {
    match evidence {
        Evidence::Declared => 0,
        Evidence::Proven => 1,
        Evidence::Observed => 2,
    }
}

/// The value of the statement that counts: live before stale, then by rank, then the newest.
fn best<'a, T>(
    claims: &[(&'a Version<EdgeBody>, Status)],
    rank: fn(Evidence) -> u8,
    value: impl Fn(&'a EdgeBody) -> Option<T>,
) -> Option<T> {
    if let [(only, _)] = claims {
        return value(&only.body);
    }
    let said =
        claims.iter().filter_map(|(v, status)| value(&v.body).map(|x| ((*status == Status::Live, rank(v.body.evidence), v.from_ms), x)));
    said.max_by_key(|(key, _)| *key).map(|(_, x)| x)
}

/// Sums up what is in force at a time; `None` if nothing is.
pub(crate) fn effective<'a>(claims: impl Iterator<Item = &'a Claims<EdgeBody>>, at_ms: i64) -> Option<Effective<'a>> {
    let now: smallvec::SmallVec<[_; 4]> = claims.flat_map(|c| c.at(at_ms)).map(|(_, version, status)| (version, status)).collect();
    if now.is_empty() {
        return None;
    }
    let mut evidence = EvidenceSet::default();
    let mut doubt = 1.0;
    for (version, status) in &now {
        evidence.insert(version.body.evidence);
        let factor = if *status == Status::Live { 1.0 } else { STALE_CONFIDENCE };
        doubt *= 1.0 - version.body.confidence.unwrap_or(1.0) * factor;
    }
    let class = best(&now, said, |b| b.class).unwrap_or_default();
    let default_coupling = match class {
        Class::Hard => 1.0,
        Class::Soft => SOFT_COUPLING,
        Class::Ordering => 0.0,
    };
    Some(Effective {
        status: if now.iter().any(|(_, s)| *s == Status::Live) { Status::Live } else { Status::Stale },
        evidence,
        class,
        flow: best(&now, said, |b| b.flow),
        group: best(&now, said, |b| b.group.as_deref()),
        share: best(&now, measured, |b| b.share).unwrap_or(1.0),
        coupling: best(&now, said, |b| b.coupling).unwrap_or(default_coupling),
        confidence: 1.0 - doubt,
        lag_ms: best(&now, measured, |b| b.lag_ms),
    })
}

impl Effective<'_> {
    /// Probability that a failure of the provider reaches a request to the dependent.
    pub fn probability(&self) -> f32 {
        if self.class == Class::Ordering { 0.0 } else { self.share * self.coupling * self.confidence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(said: &[(i64, i64, EdgeBody)]) -> Claims<EdgeBody> {
        let mut claims = Claims::default();
        for (i, (at_ms, ttl_ms, body)) in said.iter().enumerate() {
            claims.assert(i as u32, *at_ms, *ttl_ms, body.clone());
        }
        claims
    }

    #[test]
    fn each_number_comes_from_whoever_knows_it_best() {
        let declared = EdgeBody { class: Some(Class::Hard), share: Some(1.0), confidence: Some(0.5), ..EdgeBody::default() };
        let observed =
            EdgeBody { evidence: Evidence::Observed, share: Some(0.2), lag_ms: Some(7), confidence: Some(0.5), ..EdgeBody::default() };
        let proven = EdgeBody { evidence: Evidence::Proven, class: Some(Class::Soft), coupling: Some(0.3), ..EdgeBody::default() };
        let two = claims(&[(0, 0, declared.clone()), (0, 0, observed.clone())]);
        let e = effective([&two].into_iter(), 5).expect("is there");
        assert_eq!((e.class, e.share, e.coupling, e.confidence, e.lag_ms), (Class::Hard, 0.2, 1.0, 0.75, Some(7)));
        assert!((e.probability() - 0.15).abs() < 1e-6);
        let three = claims(&[(0, 0, declared.clone()), (0, 0, observed), (1, 0, proven)]);
        let e = effective([&three].into_iter(), 5).expect("is there");
        assert_eq!((e.class, e.share, e.coupling, e.confidence), (Class::Soft, 0.2, 0.3, 1.0));
        assert_eq!(e.evidence.iter().count(), 3);
        assert!(effective([&three].into_iter(), -1).is_none());
        let stale = claims(&[(0, 10, declared)]);
        let e = effective([&stale].into_iter(), 20).expect("is there");
        assert_eq!((e.status, e.confidence), (Status::Stale, 0.25));
    }
}
