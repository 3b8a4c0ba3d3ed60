//! Which instructions the hot kernels may use: asked once, so that one binary runs on every x86-64 and is fast on a new one.

/// Whether kernels compiled for AVX2, BMI, LZCNT and FMA may run.
#[inline]
#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx2() -> bool {
    use std::sync::LazyLock;
    static FOUND: LazyLock<bool> = LazyLock::new(|| {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("fma")
    });
    #[cfg(test)]
    if BASELINE_ONLY.get() {
        return false;
    }
    *FOUND
}

#[cfg(test)]
thread_local! {
    /// Makes this thread run the kernels of processors without AVX2.
    pub(super) static BASELINE_ONLY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Defines a function twice: for the baseline and for AVX2; calls pick by what the processor has. Bodies must be
/// `#[inline(always)]` functions, or they are not compiled anew.
macro_rules! dispatch {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($argument:ident: $kind:ty),* $(,)?) -> $result:ty = $body:path) => {
        $(#[$doc])*
        $vis fn $name($($argument: $kind),*) -> $result {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,fma")]
                fn fast($($argument: $kind),*) -> $result {
                    $body($($argument),*)
                }
                if $crate::codec::cpu::has_avx2() {
                    // SAFETY: the processor has every feature that `fast` is compiled for.
                    return unsafe { fast($($argument),*) };
                }
            }
            $body($($argument),*)
        }
    };
}
pub(super) use dispatch;
