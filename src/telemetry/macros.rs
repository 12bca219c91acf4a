//! Declares a struct of metrics, each metric in one place: field, type, name, unit and help.

/// One row declares one metric: `field: Type = "name", "help";`, with `in UNIT` after the name where the metric has a unit,
/// and `= value` after the help where the type has no default. The help is the field's documentation as well.
///
/// The struct gets `register(&mut Registry)`, and `DECLARED` with each metric's name and help in order.
macro_rules! metrics {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $struct:ident {
            $(
                $field_visibility:vis $field:ident: $type:ty
                    = $name:literal $(in $unit:ident)?, $help:literal $(= $value:expr)?;
            )*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug)]
        $visibility struct $struct {
            $(#[doc = $help] $field_visibility $field: $type,)*
        }

        impl $struct {
            /// Each metric's name without prefix, unit and `_total`, with its help.
            #[cfg(test)]
            pub(crate) const DECLARED: &[(&str, &str)] = &[$(($name, $help)),*];

            pub(in crate::telemetry) fn register(registry: &mut prometheus_client::registry::Registry) -> Self {
                let metrics = Self {
                    $($field: $crate::telemetry::macros::metrics!(@value $($value)?),)*
                };
                $(
                    $crate::telemetry::macros::metrics!(
                        @register registry, $name, $help, metrics.$field.clone() $(, $unit)?
                    );
                )*
                metrics
            }
        }
    };
    (@value) => { Default::default() };
    (@value $value:expr) => { $value };
    (@register $registry:ident, $name:literal, $help:literal, $metric:expr) => {
        $registry.register($name, $help, $metric);
    };
    (@register $registry:ident, $name:literal, $help:literal, $metric:expr, $unit:ident) => {
        $registry.register_with_unit($name, $help, prometheus_client::registry::Unit::$unit, $metric);
    };
}

/// Declares a set of labels whose values are words of the program's own.
macro_rules! labels {
    ($($(#[$attribute:meta])* $visibility:vis struct $struct:ident { $($(#[$field_attribute:meta])* $label:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$attribute])*
            #[derive(Debug, Clone, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelSet)]
            $visibility struct $struct {
                $($(#[$field_attribute])* pub $label: $type,)*
            }
        )*
    };
}

pub(super) use {labels, metrics};
