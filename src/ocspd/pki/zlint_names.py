"""zlint's names in terms of pkilint: lints that are the same rule, and the sources of lints.

Only lints for which pkilint has a finding of exactly that rule are here: ignoring a zlint name must not
ignore more than it does in CFSSL.
"""

from __future__ import annotations

from dataclasses import dataclass

COMMON_NAME = tuple(
    f"cabf.{kind}.common_name_attribute_present"
    for kind in ("serverauth.dv", "serverauth.iv", "serverauth.ov", "ev_guidelines")
)

ZLINT_NAMES: dict[str, tuple[str, ...]] = {
    "e_basic_constraints_not_critical": ("pkix.basic_constraints_extension_not_critical",),
    "e_ca_common_name_missing": ("cabf.serverauth.ca.common_name_attribute_absent",),
    "e_ca_country_name_missing": ("cabf.serverauth.ca.country_attribute_absent",),
    "e_ca_key_usage_missing": (
        "pkix.ca_certificate_no_ku_extension",
        "cabf.serverauth.ca.key_usage_extension_absent",
    ),
    "e_ca_organization_name_missing": ("cabf.serverauth.ca.organization_name_attribute_absent",),
    "n_ca_digital_signature_not_set": ("cabf.ca_certificate_no_digital_signature_bit",),
    "e_ca_key_cert_sign_not_set": ("pkix.ca_certificate_keycertsign_keyusage_not_set",),
    "e_cert_contains_unique_identifier": ("pkix.issuer_unique_id_present", "pkix.subject_unique_id_present"),
    "e_cab_ov_requires_org": ("cabf.serverauth.ov.organization_name_attribute_absent",),
    "e_cert_policy_ov_requires_country": ("cabf.serverauth.ov.country_attribute_absent",),
    "e_cert_policy_iv_requires_country": ("cabf.serverauth.iv.country_attribute_absent",),
    "e_cert_policy_ov_requires_province_or_locality": (
        "cabf.serverauth.subscriber_stateprovince_and_locality_missing",
    ),
    "e_cert_policy_iv_requires_province_or_locality": (
        "cabf.serverauth.subscriber_stateprovince_and_locality_missing",
    ),
    "e_cert_sig_alg_not_match_tbs_sig_alg": ("pkix.certificate_signature_algorithm_mismatch",),
    "e_distribution_point_incomplete": ("pkix.distribution_point_does_not_contain_name_or_issuer",),
    "e_dnsname_contains_prohibited_reserved_label": (
        "cabf.serverauth.dnsname_contains_prohibited_reserved_label",
    ),
    "e_dnsname_not_valid_tld": ("cabf.internal_domain_name",),
    "e_ecdsa_allowed_ku": ("pkix.key_usage_value_prohibited_for_ec",),
    "e_empty_sct_list": ("pkix.sct_list_empty",),
    "e_ev_business_category_missing": ("cabf.ev_guidelines.business_category_attribute_absent",),
    "e_ev_country_name_missing": ("cabf.ev_guidelines.country_attribute_absent",),
    "e_ev_organization_name_missing": ("cabf.ev_guidelines.organization_name_attribute_absent",),
    "e_ev_serial_number_missing": ("cabf.ev_guidelines.serial_number_attribute_absent",),
    "e_ev_san_ip_address_present": ("cabf.ev_guidelines.prohibited_san_type",),
    "e_ext_aia_marked_critical": ("pkix.authority_information_access_extension_critical",),
    "e_ext_authority_key_identifier_critical": ("pkix.authority_key_identifier_critical",),
    "e_ext_authority_key_identifier_missing": ("pkix.authority_key_identifier_extension_absent",),
    "e_ext_authority_key_identifier_no_key_identifier": ("pkix.authority_key_identifier_keyid_missing",),
    "e_ext_cert_policy_disallowed_any_policy_qualifier": (
        "pkix.certificate_policies_anypolicy_has_prohibited_qualifier",
    ),
    "e_ext_cert_policy_duplicate": ("pkix.duplicate_certificate_policy_oids",),
    "e_ext_duplicate_extension": ("pkix.duplicate_extension",),
    "e_ext_key_usage_cert_sign_without_ca": ("pkix.ee_certificate_keycertsign_keyusage_set",),
    "e_ext_key_usage_without_bits": ("pkix.no_ku_bits_set",),
    "e_ext_name_constraints_not_critical": ("pkix.certificate_name_constraints_extension_not_critical",),
    "e_ext_name_constraints_not_in_ca": ("pkix.name_constraints_in_ee_certificate",),
    "e_ext_san_contains_reserved_ip": ("cabf.internal_ip_address",),
    "e_ext_san_missing": ("cabf.serverauth.subscriber.subject_altname_extension_absent",),
    "e_ext_san_not_critical_without_subject": ("pkix.san_extension_not_critical_empty_subject",),
    "e_ext_subject_directory_attr_critical": ("pkix.subject_directory_attributes_extension_critical",),
    "e_ext_subject_key_identifier_critical": ("pkix.certificate_skid_extension_critical",),
    "e_ext_subject_key_identifier_missing_ca": ("pkix.certificate_skid_ca_missing",),
    "e_invalid_certificate_version": ("pkix.certificate_version_is_not_v3",),
    "e_name_constraint_empty": ("pkix.name_constraints_no_subtrees",),
    "e_name_constraint_maximum_not_absent": ("pkix.name_constraints_maximum_specified",),
    "e_name_constraint_minimum_non_zero": ("pkix.name_constraints_non_default_minimum",),
    "e_path_len_constraint_improperly_included": ("pkix.basic_constraints_has_pathlen_for_non_ca",),
    "e_sub_cert_aia_missing": ("cabf.serverauth.subscriber.authority_info_access_extension_absent",),
    "e_sub_cert_certificate_policies_missing": (
        "cabf.serverauth.subscriber.certificate_policies_extension_absent",
    ),
    "e_sub_cert_eku_missing": ("cabf.serverauth.subscriber.extended_key_usage_extension_absent",),
    "e_sub_cert_not_is_ca": ("cabf.serverauth.subscriber_basic_constraints_ca_bit_set",),
    "e_subject_common_name_not_from_san": ("cabf.serverauth.subscriber_common_name_unknown_source",),
    "e_subject_country_not_iso": ("cabf.invalid_country_code",),
    "e_subject_info_access_marked_critical": ("pkix.subject_information_access_extension_critical",),
    "e_tls_server_cert_valid_time_longer_than_398_days": (
        "cabf.serverauth.certificate_validity_period_exceeds_398_days",
    ),
    "e_validity_time_not_positive": ("pkix.certificate_negative_validity_period",),
    "e_wrong_time_format_pre2050": ("pkix.wrong_time_useful_type",),
    "n_subject_common_name_included": COMMON_NAME,
    "w_subject_common_name_included": COMMON_NAME,
    "w_ext_cert_policy_contains_noticeref": ("pkix.certificate_policies_usernotice_has_noticeref",),
    "w_ext_cert_policy_explicit_text_includes_control": (
        "pkix.certificate_policies_explicit_text_has_control_character",
    ),
    "w_ext_cert_policy_explicit_text_not_nfc": (
        "pkix.certificate_policies_explicit_text_not_nfc_normalized",
    ),
    "w_ext_crl_distribution_marked_critical": ("pkix.certificate_crldp_extension_critical",),
    "w_ext_ian_critical": ("pkix.issuer_alt_name_extension_critical",),
    "w_ext_key_usage_not_critical": ("pkix.key_usage_extension_not_critical",),
    "w_ext_san_critical_with_subject_dn": ("pkix.san_extension_is_critical_non_empty_subject",),
    "w_ext_subject_key_identifier_missing_sub_cert": ("pkix.certificate_skid_end_entity_missing",),
    "w_ext_subject_key_identifier_not_recommended_subscriber": (
        "cabf.serverauth.subscriber.subject_key_identifier_extension_present",
    ),
    "w_root_ca_basic_constraints_path_len_constraint_field_present": (
        "cabf.serverauth.root_basic_constraints_pathlenconstraint_present",
    ),
    "w_rsa_public_exponent_not_in_range": ("cabf.rsa_exponent_not_in_recommended_range",),
    "w_sub_cert_aia_does_not_contain_issuing_ca_url": (
        "cabf.serverauth.subscriber.ca_issuers_aia_access_method_absent",
    ),
}
"""By zlint's name the codes of pkilint; a version of pkilint may lack some of them."""


@dataclass(frozen=True, slots=True)
class Source:
    """A source of zlint's lints: what pkilint's codes for it begin with, and which of these do not belong."""

    prefixes: tuple[str, ...] = ()
    but: tuple[str, ...] = ()


SOURCES = {
    "RFC5280": Source(("pkix.",), ("pkix.ct_", "pkix.sct_")),
    "RFC5480": Source(("pkix.key_usage_value_prohibited_for_ec",)),
    "RFC5891": Source(),
    "RFC6960": Source(("pkix.ocsp_",)),
    "RFC6962": Source(("pkix.ct_", "pkix.sct_")),
    "RFC8813": Source(("pkix.key_usage_value_prohibited_for_ec",)),
    "CABF_BR": Source(("cabf.",), ("cabf.smime.", "cabf.ev_guidelines")),
    "CABF_SMIME_BR": Source(("cabf.smime.",)),
    "CABF_SMIME": Source(("cabf.smime.",)),
    "CABF_EV": Source(("cabf.ev_guidelines",)),
    "Mozilla": Source(("mozilla.",)),
    "Apple": Source(("apple.",)),
    "Community": Source(),
    "ETSI_ESI": Source(("etsi.",)),
}
"""By zlint's names (`lint.LintSource`); some have no counterpart in pkilint, and ignoring them is nothing."""

PREFIXES = ("adbe", "cabf", "etsi", "googl", "iso", "itu", "msft", "pkix")
"""What pkilint's codes begin with, as sources of their own."""
