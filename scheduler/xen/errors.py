"""What a Xen pool can answer instead of what was asked: a table from error code to what to do next.

XenAPI has some 600 error codes and no classes. What a caller needs is not the code but the consequence: log in
elsewhere, wait and repeat, take another host, take another SR, look at the state first, believe that the thing is
gone, give up. So each code that the calls of this driver can raise is in one table, by consequence, and a consequence
is an exception: those of `scheduler.hypervisor` where the caller decides, those below where the driver itself does.
The table errs to the safe side: a code that it does not hold becomes `CallFailed`, which nobody repeats, nobody reads
as "gone", and people see as it came. (Patterns over code names were left: `HOST_IS_LIVE` and `HOST_NOT_LIVE` want
opposite things.) The exception are the numbered `SR_BACKEND_FAILURE_n`, whose numbers belong to storage plug-ins that
nobody can list: another SR may do.

Beside the codes stand the errors of the line. The one that matters is `NoAnswer`: the call was sent and nothing came
back, so it may or may not have been done; who catches it looks before repeating. `PoolUnreachable` is the harmless
one: nothing was sent.

Codes: the XenAPI datamodel, https://xapi-project.github.io/new-docs/xen-api/ .
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from scheduler.hypervisor import (
    Gone,
    HypervisorError,
    MigrationFailed,
    NextHost,
    NextSr,
    Refused,
    TryAgain,
    Unreachable,
    WrongState,
)

# Errors of the line: no answer in XenAPI came at all.


class PoolUnreachable(Unreachable):
    """No host of the pool takes a connection. Nothing was sent. The network's or the pool's fault; try again later."""


class NoAnswer(Unreachable):
    """The call was sent and no answer that can be read came: it may have been done or not. Look before repeating."""


class CertificateRefused(Refused):
    """The pool's certificate is not one that its settings trust. Nothing was sent. Check `ca_file` or
    `fingerprints`."""


class CredentialsRefused(Refused):
    """The pool does not take the user and password. Nothing was done. Check the settings."""


class NotAXenPool(Refused):
    """What answers the login does not speak XenAPI. Check the address; a proxy may stand between."""


# Errors in XenAPI that the driver itself acts upon.


class CallFailed(Refused):
    """The pool failed a call with a code from which nothing follows: shown as it came, never repeated."""


class NotPermitted(Refused):
    """The user's role, the licence, or a block that an operator set, forbids it. Ask the pool's operator."""


class BadArgument(Refused):
    """The arguments make no sense to the pool: our fault, or the user's."""


class Unsupported(Refused):
    """This pool's version, or this kind of object, does not know the operation."""


class WrongMaster(Unreachable):
    """This host is not the pool's master; `master` is. Log in there: the call was not done."""

    def __init__(self, message: str, code: str = "", master: str = "") -> None:
        super().__init__(message, code)
        self.master = master


class SessionLost(Unreachable):
    """The session is no longer valid. Log in again and repeat: the call was not done."""


class EventsLost(TryAgain):
    """The token of the last events is too old, or unknown. Read everything again."""


class DetachRejected(TryAgain):
    """The guest holds on to the device. Repeat for some seconds; then it is the guest's user who must let go."""


class Cancelled(TryAgain):
    """The task was cancelled. What it had begun may be there in part: look."""


_CODES: dict[type[HypervisorError], str] = {
    WrongMaster: "HOST_IS_SLAVE",
    SessionLost: "SESSION_INVALID SESSION_NOT_REGISTERED",
    EventsLost: "EVENTS_LOST EVENT_FROM_TOKEN_PARSE_FAILURE",
    # Nothing was done yet and nothing is wrong for good.
    TryAgain: """
        OTHER_OPERATION_IN_PROGRESS TOO_MANY_PENDING_TASKS TOO_BUSY TOO_MANY_STORAGE_MIGRATES HOST_EVACUATE_IN_PROGRESS
        HOST_STILL_BOOTING VM_CALL_PLUGIN_RATE_LIMIT SR_DEVICE_IN_USE SR_VDI_LOCKING_FAILED VDI_NOT_AVAILABLE
        VM_PV_DRIVERS_IN_USE APPLY_UPDATES_IN_PROGRESS CLUSTER_CREATE_IN_PROGRESS CONFIGURE_REPOSITORIES_IN_PROGRESS
        DESIGNATE_NEW_MASTER_IN_PROGRESS HA_DISABLE_IN_PROGRESS HA_ENABLE_IN_PROGRESS POOL_SECRET_ROTATION_PENDING
        SYNC_BUNDLE_IN_PROGRESS SYNC_UPDATES_IN_PROGRESS TLS_VERIFICATION_ENABLE_IN_PROGRESS
        VM_MEMORY_TARGET_WAIT_TIMEOUT
    """,
    NextHost: """
        CANNOT_CONTACT_HOST HOST_BROKEN HOST_CANNOT_ATTACH_NETWORK HOST_DISABLED HOST_DISABLED_INDEFINITELY
        HOST_DISABLED_UNTIL_REBOOT HOST_HAS_NO_MANAGEMENT_IP HOST_IN_EMERGENCY_MODE HOST_IN_USE
        HOST_NOT_ENOUGH_FREE_MEMORY HOST_NOT_ENOUGH_PCPUS HOST_NOT_LIVE HOST_OFFLINE
        HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY HOST_UNKNOWN_TO_MASTER INTERFACE_HAS_NO_IP NO_HOSTS_AVAILABLE
        NETWORK_SRIOV_INSUFFICIENT_CAPACITY OPENVSWITCH_NOT_ACTIVE PIF_HAS_NO_NETWORK_CONFIGURATION
        PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE REQUIRED_PIF_IS_UNPLUGGED SLAVE_REQUIRES_MANAGEMENT_INTERFACE
        BALLOONING_TIMEOUT_BEFORE_MIGRATION VMS_FAILED_TO_COOPERATE VM_HVM_REQUIRED VM_INCOMPATIBLE_WITH_THIS_HOST
        VM_HOST_INCOMPATIBLE_VERSION VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION VM_REQUIRES_GPU
        VM_REQUIRES_IOMMU VM_REQUIRES_NETWORK VM_REQUIRES_SR VM_REQUIRES_VDI VM_REQUIRES_VGPU VM_REQUIRES_VUSB
        XEN_INCOMPATIBLE VGPU_DESTINATION_INCOMPATIBLE PGPU_INSUFFICIENT_CAPACITY_FOR_VGPU PGPU_IN_USE_BY_VM
        PGPU_NOT_COMPATIBLE_WITH_GPU_GROUP DOMAIN_BUILDER_ERROR FAILED_TO_START_EMULATOR
        HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED HA_CONSTRAINT_VIOLATION_NETWORK_NOT_SHARED
        HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN HA_HOST_CANNOT_ACCESS_STATEFILE HA_HOST_CANNOT_SEE_PEERS
        HOST_CD_DRIVE_EMPTY
    """,
    NextSr: """
        SR_FULL OUT_OF_SPACE SR_ATTACH_FAILED SR_BACKEND_FAILURE SR_HAS_NO_PBDS SR_HAS_MULTIPLE_PBDS SR_IS_CACHE_SR
        SR_NOT_ATTACHED SR_OPERATION_NOT_SUPPORTED SR_REQUIRES_UPGRADE SR_SOURCE_SPACE_INSUFFICIENT
        SR_SUSPEND_SPACE_INSUFFICIENT SR_UNHEALTHY SR_UNKNOWN_DRIVER SM_PLUGIN_COMMUNICATION_FAILURE
        UNIMPLEMENTED_IN_SM_BACKEND VDI_TOO_LARGE CLUSTERED_SR_DEGRADED VM_NO_SUSPEND_SR DEFAULT_SR_NOT_FOUND
        PROVISION_FAILED_OUT_OF_SPACE VDI_COPY_FAILED
    """,
    WrongState: """
        VM_BAD_POWER_STATE OPERATION_NOT_ALLOWED VDI_IN_USE VIF_IN_USE VM_HALTED VM_REBOOTED VM_CRASHED DOMAIN_EXISTS
        DEVICE_ALREADY_ATTACHED DEVICE_ALREADY_DETACHED DEVICE_ALREADY_EXISTS DEVICE_NOT_ATTACHED VBD_IS_EMPTY
        VBD_NOT_EMPTY HOST_IS_LIVE HOST_NOT_DISABLED HOST_HAS_RESIDENT_VMS VM_IS_SNAPSHOT VM_IS_TEMPLATE
        VM_NOT_RESIDENT_HERE VM_HAS_NO_SUSPEND_VDI SUSPEND_IMAGE_NOT_ACCESSIBLE VM_SHUTDOWN_TIMEOUT VM_SUSPEND_TIMEOUT
        VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT VM_FAILED_SUSPEND_ACKNOWLEDGMENT VM_MISSING_PV_DRIVERS VM_OLD_PV_DRIVERS
        VM_LACKS_FEATURE VM_NON_SUSPENDABLE VM_CHECKPOINT_SUSPEND_FAILED VM_CHECKPOINT_RESUME_FAILED VM_REVERT_FAILED
        PROVISION_ONLY_ALLOWED_ON_TEMPLATE REVERT_ONLY_ALLOWED_ON_SNAPSHOT NOT_IN_EMERGENCY_MODE HA_IS_ENABLED
        HA_NOT_ENABLED SR_HAS_PBD SR_NOT_EMPTY PBD_EXISTS NETWORK_CONTAINS_PIF NETWORK_CONTAINS_VIF
        VM_BIOS_STRINGS_ALREADY_SET VBD_NOT_UNPLUGGABLE VDI_HAS_RRDS ACTIVATION_WHILE_NOT_FREE
    """,
    Gone: """
        HANDLE_INVALID UUID_INVALID OBJECT_NOLONGER_EXISTS VDI_MISSING VBD_MISSING
    """,
    DetachRejected: "DEVICE_DETACH_REJECTED DEVICE_DETACH_TIMEOUT",
    MigrationFailed: """
        CANNOT_EVACUATE_HOST HOST_EVACUATE_VM_NOT_HA_PROTECTED LOCATION_NOT_UNIQUE MIRROR_FAILED
        SR_DOES_NOT_SUPPORT_MIGRATION VDI_CBT_ENABLED VDI_IS_ENCRYPTED VDI_LOCATION_MISSING VDI_NEEDS_VM_FOR_MIGRATE
        VDI_NOT_IN_MAP VIF_NOT_IN_MAP VM_HOST_INCOMPATIBLE_VERSION_MIGRATE VM_MIGRATE_FAILED
        VM_MIGRATE_CONTACT_REMOTE_SERVICE_FAILED VM_HAS_PCI_ATTACHED VM_HAS_VGPU VM_HAS_VUSBS VM_HAS_SRIOV_VIF
        VM_HAS_CHECKPOINT VM_HAS_TOO_MANY_SNAPSHOTS VM_IS_IMMOBILE VM_IS_USING_NESTED_VIRT
        VGPU_SUSPENSION_NOT_SUPPORTED HOST_EVACUATION_IS_REQUIRED MISSING_CONNECTION_DETAILS TLS_CONNECTION_FAILED
        SSL_VERIFY_ERROR SUSPEND_VDI_REPLACEMENT_IS_NOT_IDENTICAL PVS_PROXY_PRESENT_ON_HIGHER_VIF_DEVICE
    """,
    Cancelled: "TASK_CANCELLED",
    NotPermitted: """
        RBAC_PERMISSION_DENIED PERMISSION_DENIED SESSION_AUTHORIZATION_FAILED SESSION_AUTHENTICATION_FAILED
        FEATURE_RESTRICTED LICENCE_RESTRICTION LICENSE_EXPIRED LICENSE_CHECKOUT_ERROR LICENSE_PROCESSING_ERROR
        OPERATION_BLOCKED VM_IS_PROTECTED VM_CANNOT_DELETE_DEFAULT_TEMPLATE VM_ASSIGNED_TO_PROTECTION_POLICY
        VM_ASSIGNED_TO_SNAPSHOT_SCHEDULE VM_IS_PART_OF_AN_APPLIANCE CANNOT_RESET_CONTROL_DOMAIN NOT_SYSTEM_DOMAIN
        SR_INDESTRUCTIBLE CANNOT_DESTROY_SYSTEM_NETWORK USER_IS_NOT_LOCAL_SUPERUSER CHANGE_PASSWORD_REJECTED
        NETWORK_UNMANAGED VDI_NOT_MANAGED ADDRESS_VIOLATES_LOCKING_CONSTRAINT ILLEGAL_IN_FIPS_MODE VM_UNSAFE_BOOT
        HOST_POWER_ON_MODE_DISABLED AUTH_IS_DISABLED
    """,
    BadArgument: """
        INVALID_VALUE VALUE_NOT_SUPPORTED INVALID_DEVICE ILLEGAL_VBD_DEVICE FIELD_TYPE_ERROR MAC_INVALID
        MAP_DUPLICATE_KEY DB_UNIQUENESS_CONSTRAINT_VIOLATION MEMORY_CONSTRAINT_VIOLATION
        MEMORY_CONSTRAINT_VIOLATION_MAXPIN MEMORY_CONSTRAINT_VIOLATION_ORDER VM_MEMORY_SIZE_TOO_LOW VM_NO_VCPUS
        VM_TOO_MANY_VCPUS VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE VDI_TOO_SMALL VDI_READONLY VDI_IS_A_PHYSICAL_DEVICE
        VDI_IS_SHARABLE VDI_INCOMPATIBLE_TYPE VDI_IS_NOT_ISO VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION
        DISK_VBD_MUST_BE_READWRITE_FOR_HVM VBD_CDS_MUST_BE_READONLY VBD_NOT_REMOVABLE_MEDIA VM_DUPLICATE_VBD_DEVICE
        VM_NO_EMPTY_CD_VBD VM_ATTACHED_TO_MORE_THAN_ONE_VDI_WITH_TIMEOFFSET_MARKED_AS_RESET_ON_BOOT VM_PCI_BUS_FULL
        SR_UUID_EXISTS SR_NOT_SHARABLE INVALID_CIDR_ADDRESS_SPECIFIED INVALID_IP_ADDRESS_SPECIFIED
        MESSAGE_PARAMETER_COUNT_MISMATCH EVENT_SUBSCRIPTION_PARSE_FAILURE IMPORT_ERROR IMPORT_ERROR_PREMATURE_EOF
        IMPORT_ERROR_CANNOT_HANDLE_CHUNKED IMPORT_ERROR_UNEXPECTED_FILE IMPORT_ERROR_FAILED_TO_FIND_OBJECT
        IMPORT_ERROR_ATTACHED_DISKS_NOT_FOUND IMPORT_ERROR_SOME_CHECKSUMS_FAILED IMPORT_INCOMPATIBLE_VERSION
        DUPLICATE_VM DUPLICATE_MAC_SEED HOST_NAME_INVALID BRIDGE_NAME_EXISTS BRIDGE_NOT_AVAILABLE
        NETWORK_INCOMPATIBLE_PURPOSES TOO_MANY_GROUPS VTPM_MAX_AMOUNT_REACHED XMLRPC_UNMARSHAL_FAILURE
        BOOTLOADER_FAILED UNKNOWN_BOOTLOADER INVALID_NTP_CONFIG INVALID_EDITION CANNOT_FIND_UPDATE
        NOT_ALLOWED_WHEN_NTP_IS_ENABLED PIF_BOND_NEEDS_MORE_MEMBERS
    """,
    Unsupported: """
        NOT_IMPLEMENTED NOT_SUPPORTED_DURING_UPGRADE MESSAGE_METHOD_UNKNOWN MESSAGE_DEPRECATED MESSAGE_REMOVED
        XENAPI_MISSING_PLUGIN VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED VM_SNAPSHOT_WITH_QUIESCE_FAILED
        VDI_NO_CBT_METADATA TLS_VERIFICATION_NOT_ENABLED_IN_POOL
    """,
    # Named so that nobody wonders: these say that something broke, and nothing about what would help.
    CallFailed: """
        INTERNAL_ERROR XAPI_HOOK_FAILED XENAPI_PLUGIN_FAILURE EXTENSION_PROTOCOL_FAILURE VDI_IO_ERROR
        COULD_NOT_IMPORT_DATABASE SYSPREP WLB_MALFORMED_RESPONSE HA_FAILED_TO_FORM_LIVESET AUTH_ALREADY_ENABLED
        AUTH_DISABLE_FAILED AUTH_ENABLE_FAILED AUTH_SERVICE_ERROR AUTH_SET_LDAPS_FAILED AUTH_UNKNOWN_TYPE
        DEVICE_ATTACH_TIMEOUT INCOMPATIBLE_CLUSTER_STACK_ACTIVE CLUSTER_ALREADY_EXISTS
    """,
}


_ADVICE = dict.fromkeys(
    ("VM_LACKS_FEATURE", "VM_MISSING_PV_DRIVERS", "VM_OLD_PV_DRIVERS"),
    ": the guest cannot be asked (it is still booting, or has no guest tools); --hard does without",
)
"""What a person can do, where the code alone does not say it."""


def _by_code() -> dict[str, type[HypervisorError]]:
    table: dict[str, type[HypervisorError]] = {}
    for kind, codes in _CODES.items():
        for code in codes.split():
            if code in table:
                raise AssertionError(f"{code} is in the table twice")
            table[code] = kind
    return table


CLASSES: dict[str, type[HypervisorError]] = _by_code()
"""What each known error code asks for."""


def class_of(code: str) -> type[HypervisorError]:
    """The consequence of an error code; `CallFailed`, from which nothing follows, for one that nobody listed."""
    known = CLASSES.get(code)
    if known is None and code.startswith("SR_BACKEND_FAILURE"):
        return NextSr
    return known or CallFailed


def without_secrets(text: str) -> str:
    """A text of somebody else's that may quote a URL with a session in it, without the session."""
    return SESSION.sub("session_id=***", text)


def failure(details: Sequence[object], pool: str) -> HypervisorError:
    """The exception for an `ErrorDescription` as XenAPI sends it: a code and its parameters, all strings."""
    code, *params = [str(item)[:PARAM_CHARS_MAX] for item in details] or ["INTERNAL_ERROR"]
    kind = class_of(code)
    if kind is SessionLost or params[:1] == ["session"]:
        params = []  # the parameter is the session, which is as good as the password
    shown = without_secrets(", ".join(param for param in params if param))
    message = f"pool {pool}: {code}" + (f" ({shown})" if shown else "") + _ADVICE.get(code, "")
    if kind is WrongMaster:
        return WrongMaster(message, code, params[0] if params else "")
    return kind(message, code)


SESSION = re.compile(r"session_id=[^&\s'\"]*")
PARAM_CHARS_MAX = 500
"""Of each parameter: some carry whole logs of a storage plug-in."""
