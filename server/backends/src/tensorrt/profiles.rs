//! Which optimization profiles an instance runs with, and which of them a batch. Pure.
//!
//! Source: Triton model configuration, "Instance Groups", `profile`; Triton takes the profile whose best shape is nearest.

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
    tensor::Shape,
};
use server_proto::inference::ModelInstanceGroup;

use super::description::{Description, Range};

/// One input of a batch, as the profiles see it.
#[derive(Debug, Clone)]
pub(super) struct Given {
    /// Number of the tensor in the description.
    pub(super) tensor: usize,
    /// Shape of the whole batch.
    pub(super) shape: Shape,
    /// Values of a shape tensor, the batch size in front where the model batches.
    pub(super) values: Option<Vec<i64>>,
}

/// The group an instance of that name belongs to.
pub(super) fn group<'a>(config: &'a ModelConfig, instance_name: &str) -> Option<&'a ModelInstanceGroup> {
    let is_of = |group: &&ModelInstanceGroup| {
        let number = instance_name.strip_prefix(&group.name).and_then(|rest| rest.strip_prefix('_'));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    config.instance_group.iter().filter(is_of).max_by_key(|group| group.name.len())
}

/// Numbers of the profiles of a group, each once, in its order; the first profile where it names none.
///
/// Errors: `InvalidArgument` if there is no such profile.
pub(super) fn of_group(group: Option<&ModelInstanceGroup>, instance: &str, known: usize) -> Result<Vec<usize>> {
    let mut numbers = Vec::new();
    for profile in group.map_or(&[][..], |group| &group.profile) {
        let number = profile.parse::<usize>().ok().filter(|&number| number < known).ok_or_else(|| {
            let most = known.saturating_sub(1);
            Error::invalid_argument(format!(
                "Can not set the specified optimization profile {profile}[{profile}] for {instance}. Expected optimization profile \
                 index range 0-{most}"
            ))
        })?;
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    if numbers.is_empty() {
        numbers.push(0);
    }
    numbers.sort_unstable(); // the first one serves what none was made for
    Ok(numbers)
}

/// The place in `usable` of the profile whose best shapes are nearest to what is given.
///
/// Errors: `InvalidArgument` if none allows it: what the first of them would allow.
pub(super) fn choose(description: &Description, usable: &[usize], given: &[Given], instance: &str) -> Result<usize> {
    let distance = |&profile: &usize| -> Option<i64> {
        given.iter().try_fold(0_i64, |sum, given| {
            let range = description.profiles[profile].ranges[given.tensor].as_ref()?;
            misfit(range, given).is_none().then(|| sum.saturating_add(distance(range, given)))
        })
    };
    let nearest = usable.iter().enumerate().filter_map(|(place, profile)| Some((distance(profile)?, place))).min();
    if let Some((_, place)) = nearest {
        return Ok(place);
    }
    let first = &description.profiles[usable[0]];
    let why = given.iter().find_map(|given| {
        let reason = first.ranges[given.tensor].as_ref().and_then(|range| misfit(range, given))?;
        Some((&description.tensors[given.tensor].text, reason))
    });
    let (name, reason) =
        why.map_or(("", "no optimization profile allows it".to_owned()), |(name, reason)| (&**name, reason));
    Err(Error::invalid_argument(format!(
        "request specifies invalid shape for input '{name}' for {instance}. Error details: {reason}"
    )))
}

/// Why a range does not allow it.
fn misfit(range: &Range, given: &Given) -> Option<String> {
    let shape = &given.shape;
    if shape.len() != range.max.len() {
        return Some(format!("model expected {} dimensions but received {} dimensions", range.max.len(), shape.len()));
    }
    let bounds = range.min.iter().zip(&range.max);
    let outside = shape.iter().zip(bounds).enumerate().find(|(_, (extent, (min, max)))| extent < min || extent > max);
    if let Some((dimension, (extent, (min, max)))) = outside {
        return Some(format!(
            "model expected the shape of dimension {dimension} to be between {min} and {max} but received {extent}"
        ));
    }
    let (Some(values), Some([min, _, max])) = (&given.values, &range.values) else { return None };
    if values.len() != max.len() {
        return Some(format!(
            "mismatch between the number of shape values. Expecting {}. Got {}",
            max.len(),
            values.len()
        ));
    }
    let outside =
        values.iter().zip(min.iter().zip(max)).enumerate().find(|(_, (value, (min, max)))| value < min || value > max);
    outside.map(|(index, (value, (min, max)))| {
        format!("The shape value at index {index} is expected to be in range from {min} to {max}, Got: {value}")
    })
}

/// How far it is from what the range is made for.
fn distance(range: &Range, given: &Given) -> i64 {
    let between = |best: &[i64], given: &[i64]| {
        best.iter().zip(given).map(|(best, given)| best.abs_diff(*given)).fold(0_i64, i64::saturating_add_unsigned)
    };
    let values =
        range.values.as_ref().zip(given.values.as_ref()).map_or(0, |([_, best, _], values)| between(best, values));
    between(&range.opt, &given.shape).saturating_add(values)
}

#[cfg(test)]
mod tests {
    use super::{
        super::description::{
            Profile,
            testing::{batching, range},
        },
        *,
    };

    fn given(shape: &[i64]) -> Vec<Given> {
        vec![Given { tensor: 0, shape: shape.into(), values: None }]
    }

    fn two_profiles() -> Description {
        let mut description = batching();
        description.profiles.push(Profile { ranges: vec![range(&[4, 3], &[64, 3], &[128, 3]), None] });
        description
    }

    #[test]
    fn the_nearest_profile_that_allows_the_shape_is_chosen() {
        let description = two_profiles();
        let choose = |rows| choose(&description, &[0, 1], &given(&[rows, 3]), "m_0_0");
        assert_eq!([1, 6, 8, 100].map(|rows| choose(rows).unwrap()), [0, 0, 0, 1]);
        assert_eq!(
            super::choose(&description, &[1], &given(&[5, 3]), "m_0_0"),
            Ok(0),
            "the place among the usable ones"
        );
    }

    #[test]
    fn what_no_profile_allows_is_refused_with_what_the_first_allows() {
        let error = choose(&two_profiles(), &[0, 1], &given(&[200, 3]), "m_0_0").unwrap_err();
        let text = "request specifies invalid shape for input 'x' for m_0_0. Error details: model expected the shape of dimension 0 to be \
                    between 1 and 8 but received 200";
        assert_eq!(error, Error::invalid_argument(text));
        let error = choose(&batching(), &[0], &given(&[1, 3, 1]), "m_0_0").unwrap_err();
        assert!(error.message.ends_with("model expected 2 dimensions but received 3 dimensions"), "{error}");
    }

    #[test]
    fn values_of_shape_tensors_are_held_against_the_profile_too() {
        let mut description = batching();
        description.profiles[0].ranges[0].as_mut().unwrap().values = Some([vec![1, 1], vec![4, 4], vec![8, 16]]);
        let with =
            |values: &[i64]| vec![Given { tensor: 0, shape: [2, 3].as_slice().into(), values: Some(values.into()) }];
        assert_eq!(choose(&description, &[0], &with(&[2, 16]), "m"), Ok(0));
        let error = choose(&description, &[0], &with(&[2, 17]), "m").unwrap_err();
        assert!(error.message.ends_with("at index 1 is expected to be in range from 1 to 16, Got: 17"), "{error}");
    }

    #[test]
    fn a_group_names_profiles_by_number() {
        let group = |profile: &[&str]| ModelInstanceGroup {
            name: "m_0".into(),
            profile: profile.iter().map(|&profile| profile.into()).collect(),
            ..ModelInstanceGroup::default()
        };
        assert_eq!(of_group(Some(&group(&["1", "0", "1"])), "m_0_0", 2), Ok(vec![0, 1]));
        assert_eq!(of_group(Some(&group(&[])), "m_0_0", 2), Ok(vec![0]));
        let error = of_group(Some(&group(&["2"])), "m_0_0", 2).unwrap_err();
        assert!(error.message.ends_with("for m_0_0. Expected optimization profile index range 0-1"), "{error}");
        let config = ModelConfig { instance_group: vec![group(&["1"])], ..ModelConfig::default() };
        assert!(super::group(&config, "m_0_12").is_some() && super::group(&config, "m_01_1").is_none());
    }
}
