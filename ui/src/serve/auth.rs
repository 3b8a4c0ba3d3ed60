//! Basic auth with the users of `web-config.yml`.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

/// Verified credentials that are remembered, since a bcrypt costs tens of milliseconds. The set is emptied when full.
const MAX_REMEMBERED: usize = 1024;

/// Hashes computed at once, so that guesses do not take all CPUs.
const MAX_CONCURRENT_HASHES: usize = 2;

/// Longest header that is looked at; bcrypt itself reads 72 bytes of a password.
const MAX_HEADER_BYTES: usize = 1024;

/// A hash that no password has, compared for unknown users so that they take as long as known ones.
const NOBODY: &str = "$2y$10$abcdefghijklmnopqrstuu...............................";

/// Who may come in.
pub struct Auth {
    users: RwLock<Arc<BTreeMap<String, String>>>,
    remembered: Mutex<HashSet<u128>>,
    // Two independent keyed hashes make one of 128 bits that nobody outside can aim at.
    keys: [RandomState; 2],
    hashes: Semaphore,
}

impl Auth {
    /// With bcrypt hashes by user name; without users everyone may come in.
    pub fn new(users: BTreeMap<String, String>) -> Self {
        Self {
            users: RwLock::new(Arc::new(users)),
            remembered: Mutex::default(),
            keys: [RandomState::new(), RandomState::new()],
            hashes: Semaphore::new(MAX_CONCURRENT_HASHES),
        }
    }

    /// Changes the users.
    pub fn replace(&self, users: BTreeMap<String, String>) {
        *self.users.write() = Arc::new(users);
        self.remembered.lock().clear();
    }

    /// Whether the headers of a request let it in.
    pub async fn allows(&self, headers: &HeaderMap) -> bool {
        let users = Arc::clone(&self.users.read());
        if users.is_empty() {
            return true;
        }
        let Some((user, password)) = credentials(headers) else { return false };
        let hash = users.get(&user).cloned();
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
        let fingerprint = self.fingerprint(&user, &password, &hash);
        if known && self.remembered.lock().contains(&fingerprint) {
            return true;
        }
        let Ok(_slot) = self.hashes.acquire().await else { return false };
        let verified = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await.unwrap_or(false);
        if known && verified {
            let mut remembered = self.remembered.lock();
            if remembered.len() >= MAX_REMEMBERED {
                remembered.clear();
            }
            remembered.insert(fingerprint);
        }
        known && verified
    }

    fn fingerprint(&self, user: &str, password: &str, hash: &str) -> u128 {
        let [a, b] = self.keys.each_ref().map(|key| u128::from(key.hash_one((user, password, hash))));
        a << 64 | b
    }
}

fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    if value.len() > MAX_HEADER_BYTES {
        return None;
    }
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().expect("is a header"))])
    }

    fn basic(pair: &str) -> HeaderMap {
        headers(&format!("Basic {}", STANDARD.encode(pair)))
    }

    #[tokio::test]
    async fn lets_in_who_knows_the_password() {
        let hash = bcrypt::hash("secret", 4).expect("hashes");
        let auth = Auth::new(BTreeMap::from([("alice".to_owned(), hash)]));
        for _ in 0..2 {
            assert!(auth.allows(&basic("alice:secret")).await);
        }
        assert_eq!(auth.remembered.lock().len(), 1);
        for wrong in [basic("alice:Secret"), basic("bob:secret"), basic("alice"), headers("Bearer x"), headers("Basic ?"), HeaderMap::new()]
        {
            assert!(!auth.allows(&wrong).await, "{wrong:?}");
        }
        auth.replace(BTreeMap::from([("alice".to_owned(), bcrypt::hash("new", 4).expect("hashes"))]));
        assert!(!auth.allows(&basic("alice:secret")).await);
        assert!(auth.allows(&basic("alice:new")).await);
        auth.replace(BTreeMap::new());
        assert!(auth.allows(&HeaderMap::new()).await);
    }

    #[test]
    fn nobodys_hash_is_a_hash() {
        assert!(!bcrypt::verify("x", NOBODY).expect("is well formed"));
    }
}
