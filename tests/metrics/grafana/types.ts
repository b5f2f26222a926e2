// The dashboard, which a test puts in the place of DASHBOARD, against the types that Grafana publishes for it. The
// compiler refuses names that Grafana does not know, and values of a wrong type; nothing of it is ever run.

import type { AnnotationQuery, Dashboard, GraphFieldConfig, Panel, RowPanel, TableFieldOptions } from "@grafana/schema";
import type { Options as StatOptions } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type { Options as TableOptions } from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type { Options as GraphOptions } from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// What JSON has in the place of an enum.
type Plain<T> = T extends string
  ? `${T}`
  : T extends number
    ? `${T}` extends `${infer N extends number}`
      ? N
      : never
    : T extends (infer U)[]
      ? Plain<U>[]
      : T extends object
        ? { [K in keyof T]: Plain<T[K]> }
        : T;

type Target = {
  refId: string;
  datasource: { type: "prometheus"; uid: string };
  editorMode: "code" | "builder";
  expr: string;
  legendFormat: string;
  range: boolean;
  instant: boolean;
  format?: "time_series" | "table" | "heatmap";
};

type Drawn<Type, Options, Custom> = Omit<Panel, "type" | "options" | "fieldConfig" | "targets"> & {
  type: Type;
  options: Options;
  targets: Target[];
  fieldConfig: Omit<NonNullable<Panel["fieldConfig"]>, "defaults"> & {
    defaults: Omit<NonNullable<Panel["fieldConfig"]>["defaults"], "custom"> & { custom?: Custom };
  };
};

type Picture =
  | Drawn<"timeseries", GraphOptions, GraphFieldConfig>
  | Drawn<"stat", StatOptions, never>
  | Drawn<"table", Omit<TableOptions, "frameIndex">, TableFieldOptions>;

type Annotation = Omit<AnnotationQuery, "target"> & {
  target: { refId: string; expr: string; interval: string; legendFormat: string };
  titleFormat?: string;
  textFormat?: string;
};

type Whole = Omit<Dashboard, "panels" | "annotations"> & {
  annotations: { list: Annotation[] };
  panels: (Picture | (Omit<RowPanel, "panels"> & { panels: Picture[] }))[];
};

export const dashboard = DASHBOARD satisfies Plain<Whole>;
