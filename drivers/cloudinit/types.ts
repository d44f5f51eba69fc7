/** A NoCloud seed (https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html): three documents, as text. */
export interface Seed {
  readonly metaData: string;
  readonly userData: string;
  readonly networkConfig: string;
}
