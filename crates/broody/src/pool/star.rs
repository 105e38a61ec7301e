//! Functions of several arguments, called with a tuple of them.

/// A function of two to six arguments that captures nothing. Implemented for all of them.
pub trait StarFn<Arguments>: Copy + Send + 'static {
    /// What it returns.
    type Output;

    /// Calls it.
    fn call(self, arguments: Arguments) -> Self::Output;
}

macro_rules! star {
    ($($argument:ident),*) => {
        impl<F, R, $($argument),*> StarFn<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> R + Copy + Send + 'static,
        {
            type Output = R;

            #[allow(non_snake_case)]
            fn call(self, ($($argument,)*): ($($argument,)*)) -> R {
                self($($argument),*)
            }
        }
    };
}

star!(A, B);
star!(A, B, C);
star!(A, B, C, D);
star!(A, B, C, D, E);
star!(A, B, C, D, E, G);
