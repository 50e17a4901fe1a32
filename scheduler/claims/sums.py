"""Whether the sums that are kept beside the claims are their sums: computed anew from every claim.

For tests, for the reconciler, for whoever doubts. It reads all claims in one transaction; a second per hundred thousand
or so.
"""

from __future__ import annotations

from sqlalchemy import Engine, select

from scheduler.claims.check import change
from scheduler.claims.claim import ProjectUsage, Quota
from scheduler.claims.rows import SELECT_CLAIMS, Picture, claims_of, host_of, project_of, sr_of
from scheduler.claims.tables import CLAIMS, DISKS, HOSTS, PROJECTS, SRS
from scheduler.database import with_snapshots


def wrong_sums(engine: Engine) -> list[str]:
    """A sentence for each sum that is not that of its claims and each disk that no claim has; none if all is well."""
    with with_snapshots(engine).begin() as connection:
        claims = [claim for claim, _ in claims_of(connection.execute(SELECT_CLAIMS))]
        hosts = {row.host_id: host_of(row) for row in connection.execute(select(HOSTS))}
        srs = {row.sr_id: sr_of(row) for row in connection.execute(select(SRS))}
        projects = {row.project: project_of(row, Quota())[1] for row in connection.execute(select(PROJECTS))}
        orphans = connection.execute(
            select(DISKS.c.disk_id, DISKS.c.owner)
            .outerjoin(CLAIMS, (CLAIMS.c.owner == DISKS.c.owner) & (CLAIMS.c.role == DISKS.c.role))
            .where(CLAIMS.c.owner.is_(None))
        ).all()
    blank = Picture(Quota(), projects={claim.project: (Quota(), ProjectUsage(), None) for claim in claims})
    right = change((), claims, blank)
    wrong = [f"disk {disk_id} of {owner} is in no claim" for disk_id, owner in orphans]
    for host_id in sorted(hosts.keys() | right.hosts.keys()):
        kept, sums = hosts.get(host_id), right.hosts.get(host_id)
        if (kept and (kept.memory_mib, kept.vcpus)) != ((sums.memory_mib, sums.vcpus) if sums else kept and (0, 0)):
            wrong.append(f"host {host_id}: {kept} is kept, {sums} is claimed")
    for sr_id in sorted(srs.keys() | right.srs.keys()):
        on_sr, in_all = srs.get(sr_id), right.srs.get(sr_id)
        if (on_sr and on_sr.size_bytes) != (in_all.size_bytes if in_all else on_sr and 0):
            wrong.append(f"SR {sr_id}: {on_sr} is kept, {in_all} is claimed")
    for project in sorted(projects.keys() | right.projects.keys()):
        held = right.projects.get(project, ProjectUsage())
        if projects.get(project, ProjectUsage()) != held:
            wrong.append(f"project {project}: {projects.get(project)} is kept, {held} is held")
    return wrong
